/* The call copy_up: its arguments, the GIL, and how a signal stops it. The work is in
 * copyup_data.c and copyup_metadata.c. */
#include "copyup.h"

#include <stdbool.h>
#include <unistd.h>

static const char *const method_names[] = {
    [COPYUP_NONE] = "none",
    [COPYUP_CLONE] = "clone",
    [COPYUP_COPY_FILE_RANGE] = "copy_file_range",
    [COPYUP_READ_WRITE] = "read_write",
};

int
copyup_signals(struct copyup *copy)
{
    PyEval_RestoreThread(copy->thread);
    int result = PyErr_CheckSignals();
    copy->thread = PyEval_SaveThread();
    errno = EINTR;
    return result;
}

int
copyup_checkpoint(struct copyup *copy)
{
    /* Python runs signal handlers in the main thread only; other threads do not wait for the GIL.
     */
    return getpid() == gettid() ? copyup_signals(copy) : 0;
}

static int
copy_up(struct copyup *copy, bool data, bool metadata)
{
    if (fstat(copy->src, &copy->source) < 0)
        return -1;
    if (data && S_ISREG(copy->source.st_mode) && copyup_data(copy) < 0)
        return -1;
    return metadata ? copyup_metadata(copy) : 0;
}

/* The prefixes in a tuple of bytes (NULL: none), which owns the bytes. The caller frees the array
 * with PyMem_Free. Returns NULL with an exception set. */
static struct copyup_prefix *
prefixes_from(PyObject *tuple, size_t *count)
{
    *count = tuple ? (size_t)PyTuple_Size(tuple) : 0;
    struct copyup_prefix *prefixes = PyMem_Malloc((*count + 1) * sizeof(*prefixes));
    if (prefixes == NULL)
        return (struct copyup_prefix *)PyErr_NoMemory();
    for (size_t i = 0; i < *count; i++) {
        char *bytes;
        Py_ssize_t length;
        if (PyBytes_AsStringAndSize(PyTuple_GetItem(tuple, (Py_ssize_t)i), &bytes, &length) < 0) {
            PyMem_Free(prefixes);
            return NULL;
        }
        prefixes[i] = (struct copyup_prefix){.bytes = bytes, .length = (size_t)length};
    }
    return prefixes;
}

/* An owner: an id, or -1. Converter for "O&". */
static int
id_from(PyObject *given, void *address)
{
    long long id = PyLong_AsLongLong(given);
    if (id == -1 && PyErr_Occurred())
        return 0;
    if (id < -1 || id >= UINT32_MAX) {
        PyErr_SetString(PyExc_OverflowError, "not a user or group id");
        return 0;
    }
    *(uint32_t *)address = (uint32_t)id;
    return 1;
}

static PyObject *
py_copy_up(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {
        "", "", "data", "metadata", "uid", "gid", "skip_xattrs", "keep_xattrs", NULL};
    struct copyup copy = {.uid = (uid_t)-1, .gid = (gid_t)-1};
    int data = 1;
    int metadata = 1;
    PyObject *skip = NULL;
    PyObject *keep = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "ii|$ppO&O&O!O!:copy_up", keywords, &copy.src,
                                     &copy.dst, &data, &metadata, id_from, &copy.uid, id_from,
                                     &copy.gid, &PyTuple_Type, &skip, &PyTuple_Type, &keep)) {
        return NULL;
    }
    struct copyup_prefix *skipped = prefixes_from(skip, &copy.skip_count);
    if (skipped == NULL)
        return NULL;
    struct copyup_prefix *kept = prefixes_from(keep, &copy.keep_count);
    if (kept == NULL) {
        PyMem_Free(skipped);
        return NULL;
    }
    copy.skip = skipped;
    copy.keep = kept;
    copy.thread = PyEval_SaveThread();
    int result = copy_up(&copy, data, metadata);
    PyEval_RestoreThread(copy.thread);
    PyObject *answer =
        result < 0 ? native_raise(NULL, NULL) : PyUnicode_FromString(method_names[copy.method]);
    PyMem_Free(kept);
    PyMem_Free(skipped);
    return answer;
}

PyMethodDef native_copyup_methods[] = {
    NATIVE_METHOD(
        copy_up,
        "($module, src, dst, /, *, data=True, metadata=True, uid=-1, gid=-1, "
        "skip_xattrs=(), keep_xattrs=())",
        "Copy the inode src to the empty inode dst. Return the method used for the data."),
    {NULL, NULL, 0, NULL},
};
