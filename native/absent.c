/* System calls that return None where the name or the attribute is absent. Every lookup makes them,
 * and an exception costs more than the call. */
#include "native.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/xattr.h>

enum { NS_PER_S = 1000000000 };

/* Whole nanoseconds; after the year 2262 they need more than 64 bits. */
static PyObject *
nanoseconds(struct timespec time)
{
    char digits[40];
    long long sum;
    if (!__builtin_mul_overflow((long long)time.tv_sec, NS_PER_S, &sum) &&
        !__builtin_add_overflow(sum, time.tv_nsec, &sum))
        return PyLong_FromLongLong(sum);
    if (time.tv_sec < 0 && time.tv_nsec > 0) {
        time.tv_sec++;
        time.tv_nsec = NS_PER_S - time.tv_nsec;
    }
    (void)snprintf(digits, sizeof digits, "%lld%09ld", (long long)time.tv_sec, time.tv_nsec);
    return PyLong_FromString(digits, NULL, 10);
}

static PyObject *
seconds(struct timespec time)
{
    return PyFloat_FromDouble((double)time.tv_sec + 1e-9 * (double)time.tv_nsec);
}

static PyObject *
stat_answer(const native_state *state, const struct stat *st)
{
    PyObject *answer = PyStructSequence_New(state->stat_result);
    if (answer == NULL)
        return NULL;
    /* In the order of os.stat_result, whose fields 7 to 9 have no name (bpo-11457). */
    PyObject *fields[] = {
        PyLong_FromUnsignedLong(st->st_mode),
        PyLong_FromUnsignedLongLong(st->st_ino),
        PyLong_FromUnsignedLongLong(st->st_dev),
        PyLong_FromUnsignedLongLong(st->st_nlink),
        PyLong_FromUnsignedLong(st->st_uid),
        PyLong_FromUnsignedLong(st->st_gid),
        PyLong_FromLongLong(st->st_size),
        PyLong_FromLongLong(st->st_atim.tv_sec),
        PyLong_FromLongLong(st->st_mtim.tv_sec),
        PyLong_FromLongLong(st->st_ctim.tv_sec),
        seconds(st->st_atim),
        seconds(st->st_mtim),
        seconds(st->st_ctim),
        nanoseconds(st->st_atim),
        nanoseconds(st->st_mtim),
        nanoseconds(st->st_ctim),
        PyLong_FromLong(st->st_blksize),
        PyLong_FromLongLong(st->st_blocks),
        PyLong_FromUnsignedLongLong(st->st_rdev),
    };
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
        PyStructSequence_SetItem(answer, (Py_ssize_t)i, fields[i]);
    if (PyErr_Occurred())
        Py_CLEAR(answer);
    return answer;
}

static PyObject *
py_stat_or_none(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"dirfd", "name", NULL};
    int dirfd;
    native_path name = {0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iO&:stat_or_none", keywords, &dirfd,
                                     native_path_from, &name)) {
        return NULL;
    }
    struct stat st;
    int result;
    NATIVE_CALL(result, fstatat(dirfd, name.name, &st, AT_SYMLINK_NOFOLLOW));
    PyObject *answer;
    if (result == 0)
        answer = stat_answer(PyModule_GetState(module), &st);
    else if (errno == ENOENT && !PyErr_Occurred())
        answer = Py_NewRef(Py_None);
    else
        answer = native_raise(&name, NULL);
    native_path_release(&name);
    return answer;
}

static PyObject *
py_xattr_or_none(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"path", "name", "follow_symlinks", NULL};
    PyObject *given;
    const char *name;
    int follow = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Oy|p:xattr_or_none", keywords, &given, &name,
                                     &follow)) {
        return NULL;
    }
    int fd = -1;
    native_path path = {0};
    if (PyLong_Check(given)) {
        fd = (int)PyLong_AsLong(given);
        if (fd == -1 && PyErr_Occurred())
            return NULL;
    } else if (!native_path_from(given, &path)) {
        return NULL;
    }
    /* The kernel allocates a buffer of the size asked for, so ask for a small one first. */
    char little[256], *value = little;
    size_t room = sizeof(little);
    ssize_t size;
    for (;;) {
        if (path.name == NULL)
            NATIVE_CALL(size, fgetxattr(fd, name, value, room));
        else if (follow)
            NATIVE_CALL(size, getxattr(path.name, name, value, room));
        else
            NATIVE_CALL(size, lgetxattr(path.name, name, value, room));
        if (size >= 0 || errno != ERANGE || value != little)
            break;
        room = XATTR_SIZE_MAX;
        value = PyMem_Malloc(room);
        if (value == NULL) {
            native_path_release(&path);
            return PyErr_NoMemory();
        }
    }
    PyObject *answer;
    if (size >= 0)
        answer = PyBytes_FromStringAndSize(value, size);
    else if ((errno == ENODATA || errno == EOPNOTSUPP) && !PyErr_Occurred())
        answer = Py_NewRef(Py_None);
    else
        answer = native_raise(path.name ? &path : NULL, NULL);
    if (value != little)
        PyMem_Free(value);
    native_path_release(&path);
    return answer;
}

PyMethodDef native_absent_methods[] = {
    NATIVE_METHOD(stat_or_none, "($module, /, dirfd, name)",
                  "os.stat of a name in a directory, symlinks not followed; None for ENOENT."),
    NATIVE_METHOD(xattr_or_none, "($module, /, path, name, follow_symlinks=True)",
                  "os.getxattr; None for ENODATA and EOPNOTSUPP."),
    {NULL, NULL, 0, NULL},
};

int
native_absent_init(native_state *state)
{
    PyObject *os = PyImport_ImportModule("os");
    state->stat_result = (PyTypeObject *)(os ? PyObject_GetAttrString(os, "stat_result") : NULL);
    Py_XDECREF(os);
    return state->stat_result ? 0 : -1;
}
