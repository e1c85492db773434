/* Calls that return None where the name or the attribute is absent. Every lookup makes them, and an
 * exception costs more than the call. */
#include "native.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/xattr.h>

/* os.stat, for a name that exists: it has the fields and their types. */
static PyObject *
stat_answer(PyObject *module, int dirfd, PyObject *name)
{
    PyObject *function = PyObject_GetAttrString(module, NATIVE_STAT), *answer = NULL;
    PyObject *args = Py_BuildValue("(O)", name);
    PyObject *keywords = Py_BuildValue("{s:i,s:i}", "dir_fd", dirfd, "follow_symlinks", 0);
    if (function && args && keywords)
        answer = PyObject_Call(function, args, keywords);
    Py_XDECREF(function);
    Py_XDECREF(args);
    Py_XDECREF(keywords);
    if (!answer && PyErr_ExceptionMatches(PyExc_FileNotFoundError)) { /* removed in between */
        PyErr_Clear();
        answer = Py_NewRef(Py_None);
    }
    return answer;
}

static PyObject *
py_stat_or_none(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"dirfd", "name", NULL};
    int dirfd, result;
    native_path name = {0};
    struct stat st;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iO&:stat_or_none", keywords, &dirfd,
                                     native_path_from, &name))
        return NULL;
    NATIVE_CALL(result, fstatat(dirfd, name.name, &st, AT_SYMLINK_NOFOLLOW));
    PyObject *answer;
    if (result == 0)
        answer = stat_answer(module, dirfd, name.given);
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
    char value[XATTR_SIZE_MAX];
    ssize_t size;
    for (size_t room = 256;; room = sizeof value) {
        if (path.name == NULL)
            NATIVE_CALL(size, fgetxattr(fd, name, value, room));
        else if (follow)
            NATIVE_CALL(size, getxattr(path.name, name, value, room));
        else
            NATIVE_CALL(size, lgetxattr(path.name, name, value, room));
        if (size >= 0 || errno != ERANGE || room == sizeof value)
            break;
    }
    PyObject *answer;
    if (size >= 0)
        answer = PyBytes_FromStringAndSize(value, size);
    else if ((errno == ENODATA || errno == EOPNOTSUPP) && !PyErr_Occurred())
        answer = Py_NewRef(Py_None);
    else
        answer = native_raise(path.name ? &path : NULL, NULL);
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
