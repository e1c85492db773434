/* System calls that return None where the name or the attribute is absent. Every lookup makes them,
 * and an exception costs more than the call. */
#include "native.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

/* The fields of os.stat_result to fill in. native_absent_init finds their positions. */
static const char *const stat_fields[] = {
    "st_mode",     "st_ino",     "st_dev",    "st_nlink", "st_uid",      "st_gid",
    "st_size",     "st_atime",   "st_mtime",  "st_ctime", "st_atime_ns", "st_mtime_ns",
    "st_ctime_ns", "st_blksize", "st_blocks", "st_rdev",
};

#define NS_PER_S 1000000000

enum { STAT_FIELDS = sizeof(stat_fields) / sizeof(stat_fields[0]) };
/* The position of the first of the three times that the sequence has in whole seconds (bpo-11457).
 */
enum { WHOLE_SECONDS = 7 };

_Static_assert(STAT_FIELDS == NATIVE_STAT_FIELDS, "the state has room for each field");

static PyObject *
seconds(struct timespec time)
{
    return PyFloat_FromDouble((double)time.tv_sec + 1e-9 * (double)time.tv_nsec);
}

/* Whole nanoseconds; after the year 2262 they need more than 64 bits. */
static PyObject *
nanoseconds(struct timespec time)
{
    const long long whole_seconds = time.tv_sec;
    const long fraction = time.tv_nsec;
    long long sum;
    if (!__builtin_mul_overflow(whole_seconds, NS_PER_S, &sum) &&
        !__builtin_add_overflow(sum, fraction, &sum)) {
        return PyLong_FromLongLong(sum);
    }
    PyObject *answer = NULL;
    PyObject *seconds = PyLong_FromLongLong(whole_seconds);
    PyObject *scale = PyLong_FromLong(NS_PER_S);
    PyObject *rest = PyLong_FromLong(fraction);
    PyObject *whole = seconds && scale ? PyNumber_Multiply(seconds, scale) : NULL;
    if (whole && rest)
        answer = PyNumber_Add(whole, rest);
    Py_XDECREF(whole);
    Py_XDECREF(rest);
    Py_XDECREF(scale);
    Py_XDECREF(seconds);
    return answer;
}

static PyObject *
stat_answer(const native_state *state, const struct stat *st)
{
    PyObject *answer = PyStructSequence_New(state->stat_result);
    if (answer == NULL)
        return NULL;
    PyObject *values[STAT_FIELDS] = {
        PyLong_FromUnsignedLong(st->st_mode),
        PyLong_FromUnsignedLongLong(st->st_ino),
        PyLong_FromUnsignedLongLong(st->st_dev),
        PyLong_FromUnsignedLongLong(st->st_nlink),
        PyLong_FromUnsignedLong(st->st_uid),
        PyLong_FromUnsignedLong(st->st_gid),
        PyLong_FromLongLong(st->st_size),
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
    for (int i = 0; i < STAT_FIELDS; i++)
        PyStructSequence_SetItem(answer, state->stat_at[i], values[i]);
    const time_t whole[] = {st->st_atim.tv_sec, st->st_mtim.tv_sec, st->st_ctim.tv_sec};
    for (int i = 0; i < 3; i++)
        PyStructSequence_SetItem(answer, WHOLE_SECONDS + i, PyLong_FromLongLong(whole[i]));
    if (PyErr_Occurred()) {
        Py_DECREF(answer);
        return NULL;
    }
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

/* Find os.stat_result and the positions of its fields: each field of a sample holds its own. */
int
native_absent_init(native_state *state)
{
    PyObject *os = PyImport_ImportModule("os");
    PyObject *type = os ? PyObject_GetAttrString(os, "stat_result") : NULL;
    PyObject *count = type ? PyObject_GetAttrString(type, "n_fields") : NULL;
    PyObject *numbers = count ? PyObject_CallFunction((PyObject *)&PyRange_Type, "O", count) : NULL;
    PyObject *sample = numbers ? PyObject_CallFunction(type, "(O)", numbers) : NULL;
    for (int i = 0; sample != NULL && !PyErr_Occurred() && i < STAT_FIELDS; i++) {
        PyObject *at = PyObject_GetAttrString(sample, stat_fields[i]);
        state->stat_at[i] = at ? PyLong_AsSsize_t(at) : -1;
        Py_XDECREF(at);
    }
    if (!PyErr_Occurred())
        state->stat_result = (PyTypeObject *)Py_NewRef(type);
    Py_XDECREF(sample);
    Py_XDECREF(numbers);
    Py_XDECREF(count);
    Py_XDECREF(type);
    Py_XDECREF(os);
    return PyErr_Occurred() ? -1 : 0;
}
