/* System calls that Python 3.11 lacks, each under the kernel's name.
 *
 * A wrapper parses its arguments, makes the call, and turns errno into OSError. Calls that
 * glibc 2.31 does not wrap, and those whose declarations in sys/mount.h conflict with
 * linux/mount.h, go through syscall(2). */
#include "native.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* Missing from the headers of Linux 5.10. The number is the same on all architectures but alpha. */
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

#define NS_PER_S 1000000000

static PyObject *
none_or_raise(long result, const native_path *path, const native_path *second)
{
    if (result < 0) {
        return native_raise(path, second);
    }
    Py_RETURN_NONE;
}

static PyObject *
int_or_raise(long result, const native_path *path)
{
    if (result < 0) {
        return native_raise(path, NULL);
    }
    return PyLong_FromLong(result);
}

/* ---- files ---------------------------------------------------------------------------------- */

static PyObject *
py_openat2(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"dirfd", "path", "flags", "mode", "resolve", NULL};
    int dirfd;
    native_path path = {0};
    uint64_t flags, mode = 0, resolve = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iO&O&|O&O&:openat2", keywords, &dirfd,
                                     native_path_from, &path, native_uint64_from, &flags,
                                     native_uint64_from, &mode, native_uint64_from, &resolve)) {
        return NULL;
    }
    struct open_how how = {.flags = flags | O_CLOEXEC, .mode = mode, .resolve = resolve};
    long fd;
    NATIVE_CALL(fd, syscall(SYS_openat2, dirfd, path.name, &how, sizeof(how)));
    PyObject *answer = int_or_raise(fd, &path);
    native_path_release(&path);
    return answer;
}

static PyObject *
py_renameat2(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"olddirfd", "oldpath", "newdirfd", "newpath", "flags", NULL};
    int olddirfd, newdirfd;
    native_path oldpath = {0}, newpath = {0};
    uint32_t flags = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iO&iO&|O&:renameat2", keywords, &olddirfd,
                                     native_path_from, &oldpath, &newdirfd, native_path_from,
                                     &newpath, native_uint32_from, &flags)) {
        return NULL;
    }
    int result;
    NATIVE_CALL(result, renameat2(olddirfd, oldpath.name, newdirfd, newpath.name, flags));
    PyObject *answer = none_or_raise(result, &oldpath, &newpath);
    native_path_release(&oldpath);
    native_path_release(&newpath);
    return answer;
}

PyObject *
native_nanoseconds(long long whole_seconds, long fraction)
{
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
    if (whole && rest) {
        answer = PyNumber_Add(whole, rest);
    }
    Py_XDECREF(whole);
    Py_XDECREF(rest);
    Py_XDECREF(scale);
    Py_XDECREF(seconds);
    return answer;
}

static PyStructSequence_Field statx_fields[] = {
    {"mask", "which fields hold: STATX_* bits"},
    {"blksize", "preferred size of a read or write, bytes"},
    {"attributes", "STATX_ATTR_* bits"},
    {"nlink", "number of hard links"},
    {"uid", "owner"},
    {"gid", "group"},
    {"mode", "type and permissions"},
    {"ino", "inode number"},
    {"size", "length, bytes"},
    {"blocks", "allocated units of 512 bytes"},
    {"attributes_mask", "the attributes that the file system knows"},
    {"atime_ns", "last access, nanoseconds since the epoch"},
    {"btime_ns", "creation, nanoseconds since the epoch"},
    {"ctime_ns", "last change of the inode, nanoseconds since the epoch"},
    {"mtime_ns", "last change of the content, nanoseconds since the epoch"},
    {"rdev", "the device that a device file represents"},
    {"dev", "the device that holds the file"},
    {"mnt_id", "the mount of the path"},
    {NULL, NULL},
};

static PyStructSequence_Desc statx_desc = {
    .name = "overlaykit._native.Statx",
    .doc = "The result of statx(2).",
    .fields = statx_fields,
    .n_in_sequence = sizeof(statx_fields) / sizeof(statx_fields[0]) - 1,
};

static PyObject *
statx_answer(PyTypeObject *type, const struct statx *stx)
{
    PyObject *answer = PyStructSequence_New(type);
    if (answer == NULL) {
        return NULL;
    }
    PyObject *values[] = {
        PyLong_FromUnsignedLong(stx->stx_mask),
        PyLong_FromUnsignedLong(stx->stx_blksize),
        PyLong_FromUnsignedLongLong(stx->stx_attributes),
        PyLong_FromUnsignedLong(stx->stx_nlink),
        PyLong_FromUnsignedLong(stx->stx_uid),
        PyLong_FromUnsignedLong(stx->stx_gid),
        PyLong_FromUnsignedLong(stx->stx_mode),
        PyLong_FromUnsignedLongLong(stx->stx_ino),
        PyLong_FromUnsignedLongLong(stx->stx_size),
        PyLong_FromUnsignedLongLong(stx->stx_blocks),
        PyLong_FromUnsignedLongLong(stx->stx_attributes_mask),
        native_nanoseconds(stx->stx_atime.tv_sec, stx->stx_atime.tv_nsec),
        native_nanoseconds(stx->stx_btime.tv_sec, stx->stx_btime.tv_nsec),
        native_nanoseconds(stx->stx_ctime.tv_sec, stx->stx_ctime.tv_nsec),
        native_nanoseconds(stx->stx_mtime.tv_sec, stx->stx_mtime.tv_nsec),
        PyLong_FromUnsignedLongLong(makedev(stx->stx_rdev_major, stx->stx_rdev_minor)),
        PyLong_FromUnsignedLongLong(makedev(stx->stx_dev_major, stx->stx_dev_minor)),
        PyLong_FromUnsignedLongLong(stx->stx_mnt_id),
    };
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        PyStructSequence_SetItem(answer, (Py_ssize_t)i, values[i]);
    }
    if (PyErr_Occurred()) {
        Py_DECREF(answer);
        return NULL;
    }
    return answer;
}

static PyObject *
py_statx(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"dirfd", "path", "flags", "mask", NULL};
    int dirfd, flags;
    native_path path = {0};
    uint32_t mask;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iO&iO&:statx", keywords, &dirfd,
                                     native_path_from, &path, &flags, native_uint32_from, &mask)) {
        return NULL;
    }
    struct statx stx = {0};
    int result;
    NATIVE_CALL(result, statx(dirfd, path.name, flags, mask, &stx));
    native_state *state = PyModule_GetState(module);
    PyObject *answer = result < 0 ? native_raise(&path, NULL) : statx_answer(state->statx, &stx);
    native_path_release(&path);
    return answer;
}

/* Convert an int of nanoseconds or None for utimensat(2). Converter for "O&". */
static int
timespec_from(PyObject *given, void *address)
{
    struct timespec *time = address;
    if (given == Py_None) {
        *time = (struct timespec){.tv_nsec = UTIME_OMIT};
        return 1;
    }
    PyObject *scale = PyLong_FromLong(NS_PER_S);
    PyObject *parts = scale ? PyNumber_Divmod(given, scale) : NULL;
    Py_XDECREF(scale);
    if (parts == NULL) {
        return 0;
    }
    time->tv_sec = PyLong_AsLongLong(PyTuple_GetItem(parts, 0));
    time->tv_nsec = PyLong_AsLong(PyTuple_GetItem(parts, 1));
    Py_DECREF(parts);
    return !PyErr_Occurred();
}

static PyObject *
py_utimensat(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"dirfd", "path", "atime_ns", "mtime_ns", "flags", NULL};
    int dirfd, flags = 0;
    native_path path = {0};
    struct timespec times[2];
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iO&O&O&|i:utimensat", keywords, &dirfd,
                                     native_path_from, &path, timespec_from, &times[0],
                                     timespec_from, &times[1], &flags)) {
        return NULL;
    }
    int result;
    NATIVE_CALL(result, utimensat(dirfd, path.name, times, flags));
    PyObject *answer = none_or_raise(result, &path, NULL);
    native_path_release(&path);
    return answer;
}

static PyStructSequence_Field file_handle_fields[] = {
    {"type", "the type of the handle's bytes"},
    {"handle", "the file system's identifier of the inode"},
    {"mount_id", "the mount of the path"},
    {NULL, NULL},
};

static PyStructSequence_Desc file_handle_desc = {
    .name = "overlaykit._native.FileHandle",
    .doc = "The result of name_to_handle_at(2).",
    .fields = file_handle_fields,
    .n_in_sequence = sizeof(file_handle_fields) / sizeof(file_handle_fields[0]) - 1,
};

static PyObject *
file_handle_answer(PyTypeObject *type, const struct file_handle *handle, int mount_id)
{
    PyObject *answer = PyStructSequence_New(type);
    if (answer == NULL) {
        return NULL;
    }
    PyStructSequence_SetItem(answer, 0, PyLong_FromLong(handle->handle_type));
    PyStructSequence_SetItem(answer, 1,
                             PyBytes_FromStringAndSize((const char *)handle->f_handle,
                                                       (Py_ssize_t)handle->handle_bytes));
    PyStructSequence_SetItem(answer, 2, PyLong_FromLong(mount_id));
    if (PyErr_Occurred()) {
        Py_DECREF(answer);
        return NULL;
    }
    return answer;
}

static PyObject *
py_name_to_handle_at(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"dirfd", "path", "flags", NULL};
    int dirfd, flags = 0;
    native_path path = {0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iO&|i:name_to_handle_at", keywords, &dirfd,
                                     native_path_from, &path, &flags)) {
        return NULL;
    }
    union {
        struct file_handle handle;
        char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
    } buffer = {.handle = {.handle_bytes = MAX_HANDLE_SZ}};
    int mount_id = -1;
    int result;
    NATIVE_CALL(result, name_to_handle_at(dirfd, path.name, &buffer.handle, &mount_id, flags));
    native_state *state = PyModule_GetState(module);
    PyObject *answer = result < 0
                           ? native_raise(&path, NULL)
                           : file_handle_answer(state->file_handle, &buffer.handle, mount_id);
    native_path_release(&path);
    return answer;
}

static PyObject *
py_open_by_handle_at(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"mount_fd", "handle_type", "handle", "flags", NULL};
    int mount_fd, type, flags;
    PyObject *given;
    char *name;
    Py_ssize_t length;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iiSi:open_by_handle_at", keywords, &mount_fd,
                                     &type, &given, &flags) ||
        PyBytes_AsStringAndSize(given, &name, &length) < 0) {
        return NULL;
    }
    if (length > MAX_HANDLE_SZ) {
        errno = EINVAL;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    union {
        struct file_handle handle;
        char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
    } buffer = {.handle = {.handle_bytes = (unsigned int)length, .handle_type = type}};
    memcpy(buffer.handle.f_handle, name, (size_t)length);
    long fd;
    NATIVE_CALL(fd, open_by_handle_at(mount_fd, &buffer.handle, flags | O_CLOEXEC));
    return int_or_raise(fd, NULL);
}

/* Append the entries in a buffer of getdents64(2), without "." and "..". */
static int
append_entries(PyObject *list, const char *buffer, size_t size)
{
    for (size_t at = 0; at < size;) {
        const struct dirent64 *entry = (const struct dirent64 *)(buffer + at);
        at += entry->d_reclen;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        PyObject *one = PyTuple_New(3);
        if (one == NULL) {
            return -1;
        }
        PyTuple_SetItem(one, 0, PyBytes_FromString(entry->d_name));
        PyTuple_SetItem(one, 1, PyLong_FromLong(DTTOIF(entry->d_type)));
        PyTuple_SetItem(one, 2, PyLong_FromUnsignedLongLong(entry->d_ino));
        int result = PyErr_Occurred() ? -1 : PyList_Append(list, one);
        Py_DECREF(one);
        if (result < 0) {
            return -1;
        }
    }
    return 0;
}

static PyObject *
py_getdents64(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"fd", "count", NULL};
    int fd;
    uint32_t count;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iO&:getdents64", keywords, &fd,
                                     native_uint32_from, &count)) {
        return NULL;
    }
    char *buffer = PyMem_Malloc(count);
    if (buffer == NULL) {
        return PyErr_NoMemory();
    }
    long size;
    PyObject *list = NULL;
    /* "." and ".." may be all that was read, and an empty list means the end. */
    do {
        Py_CLEAR(list);
        NATIVE_CALL(size, syscall(SYS_getdents64, fd, buffer, count));
        if (size < 0) {
            native_raise(NULL, NULL);
            break;
        }
        list = PyList_New(0);
        if (list == NULL || append_entries(list, buffer, (size_t)size) < 0) {
            Py_CLEAR(list);
            break;
        }
    } while (size > 0 && PyList_Size(list) == 0);
    PyMem_Free(buffer);
    return list;
}

static PyObject *
py_fstatfs(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"fd", NULL};
    int fd;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i:fstatfs", keywords, &fd)) {
        return NULL;
    }
    struct statfs st;
    int result;
    NATIVE_CALL(result, fstatfs(fd, &st));
    if (result < 0) {
        return native_raise(NULL, NULL);
    }
    return PyLong_FromUnsignedLong((uint32_t)st.f_type); /* signed on 32-bit machines */
}

/* ---- mounts --------------------------------------------------------------------------------- */

static PyObject *
py_open_tree(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"dirfd", "path", "flags", NULL};
    int dirfd;
    native_path path = {0};
    uint32_t flags;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iO&O&:open_tree", keywords, &dirfd,
                                     native_path_from, &path, native_uint32_from, &flags)) {
        return NULL;
    }
    long fd;
    NATIVE_CALL(fd, syscall(SYS_open_tree, dirfd, path.name, flags | OPEN_TREE_CLOEXEC));
    PyObject *answer = int_or_raise(fd, &path);
    native_path_release(&path);
    return answer;
}

static PyObject *
py_move_mount(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"from_dirfd", "from_path", "to_dirfd", "to_path", "flags", NULL};
    int from_dirfd, to_dirfd;
    native_path from_path = {0}, to_path = {0};
    uint32_t flags;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iO&iO&O&:move_mount", keywords, &from_dirfd,
                                     native_path_from, &from_path, &to_dirfd, native_path_from,
                                     &to_path, native_uint32_from, &flags)) {
        return NULL;
    }
    long result;
    NATIVE_CALL(result,
                syscall(SYS_move_mount, from_dirfd, from_path.name, to_dirfd, to_path.name, flags));
    PyObject *answer = none_or_raise(result, &from_path, &to_path);
    native_path_release(&from_path);
    native_path_release(&to_path);
    return answer;
}

static PyObject *
py_mount_setattr(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"dirfd",    "path",        "flags",     "attr_set",
                               "attr_clr", "propagation", "userns_fd", NULL};
    /* struct mount_attr of linux/mount.h, which came with Linux 5.12. */
    struct {
        uint64_t attr_set, attr_clr, propagation, userns_fd;
    } attr = {0};
    int dirfd;
    native_path path = {0};
    uint32_t flags;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iO&O&|O&O&O&O&:mount_setattr", keywords, &dirfd,
                                     native_path_from, &path, native_uint32_from, &flags,
                                     native_uint64_from, &attr.attr_set, native_uint64_from,
                                     &attr.attr_clr, native_uint64_from, &attr.propagation,
                                     native_uint64_from, &attr.userns_fd)) {
        return NULL;
    }
    long result;
    NATIVE_CALL(result, syscall(SYS_mount_setattr, dirfd, path.name, flags, &attr, sizeof(attr)));
    PyObject *answer = none_or_raise(result, &path, NULL);
    native_path_release(&path);
    return answer;
}

static PyObject *
py_fsopen(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"fstype", "flags", NULL};
    const char *fstype;
    uint32_t flags;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sO&:fsopen", keywords, &fstype,
                                     native_uint32_from, &flags)) {
        return NULL;
    }
    long fd;
    NATIVE_CALL(fd, syscall(SYS_fsopen, fstype, flags | FSOPEN_CLOEXEC));
    return int_or_raise(fd, NULL);
}

static PyObject *
py_fsconfig(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"fd", "command", "key", "value", "aux", NULL};
    int fd, aux = 0;
    uint32_t command;
    const char *key;
    native_path value = {0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iO&zO&|i:fsconfig", keywords, &fd,
                                     native_uint32_from, &command, &key, native_path_or_none_from,
                                     &value, &aux)) {
        return NULL;
    }
    long result;
    NATIVE_CALL(result, syscall(SYS_fsconfig, fd, command, key, value.name, aux));
    PyObject *answer = none_or_raise(result, NULL, NULL);
    native_path_release(&value);
    return answer;
}

static PyObject *
py_fsmount(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"fd", "flags", "attr_flags", NULL};
    int fd;
    uint32_t flags, attr_flags;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iO&O&:fsmount", keywords, &fd,
                                     native_uint32_from, &flags, native_uint32_from, &attr_flags)) {
        return NULL;
    }
    long mount_fd;
    NATIVE_CALL(mount_fd, syscall(SYS_fsmount, fd, flags | FSMOUNT_CLOEXEC, attr_flags));
    return int_or_raise(mount_fd, NULL);
}

static PyObject *
py_mount(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"source", "target", "fstype", "flags", "data", NULL};
    native_path source = {0}, target = {0}, data = {0};
    const char *fstype;
    uint64_t flags;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&O&zO&|O&:mount", keywords,
                                     native_path_or_none_from, &source, native_path_from, &target,
                                     &fstype, native_uint64_from, &flags, native_path_or_none_from,
                                     &data)) {
        return NULL;
    }
    long result;
    NATIVE_CALL(result, syscall(SYS_mount, source.name, target.name, fstype, (unsigned long)flags,
                                data.name));
    PyObject *answer = none_or_raise(result, &target, NULL);
    native_path_release(&source);
    native_path_release(&target);
    native_path_release(&data);
    return answer;
}

static PyObject *
py_umount2(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"target", "flags", NULL};
    native_path target = {0};
    int flags;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&i:umount2", keywords, native_path_from,
                                     &target, &flags)) {
        return NULL;
    }
    long result;
    NATIVE_CALL(result, syscall(SYS_umount2, target.name, flags));
    PyObject *answer = none_or_raise(result, &target, NULL);
    native_path_release(&target);
    return answer;
}

/* ---- processes ------------------------------------------------------------------------------ */

static PyObject *
py_unshare(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"flags", NULL};
    int flags;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i:unshare", keywords, &flags)) {
        return NULL;
    }
    int result;
    NATIVE_CALL(result, unshare(flags));
    return none_or_raise(result, NULL, NULL);
}

static PyObject *
py_setns(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"fd", "nstype", NULL};
    int fd, nstype;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "ii:setns", keywords, &fd, &nstype)) {
        return NULL;
    }
    int result;
    NATIVE_CALL(result, setns(fd, nstype));
    return none_or_raise(result, NULL, NULL);
}

static PyObject *
py_close_range(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"first", "last", "flags", NULL};
    uint32_t first, last, flags;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&O&O&:close_range", keywords,
                                     native_uint32_from, &first, native_uint32_from, &last,
                                     native_uint32_from, &flags)) {
        return NULL;
    }
    long result;
    NATIVE_CALL(result, syscall(SYS_close_range, first, last, flags));
    return none_or_raise(result, NULL, NULL);
}

static PyObject *
py_prctl(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"option", "arg2", "arg3", "arg4", "arg5", NULL};
    int option;
    uint64_t arg2 = 0, arg3 = 0, arg4 = 0, arg5 = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i|O&O&O&O&:prctl", keywords, &option,
                                     native_uint64_from, &arg2, native_uint64_from, &arg3,
                                     native_uint64_from, &arg4, native_uint64_from, &arg5)) {
        return NULL;
    }
    int result;
    NATIVE_CALL(result, prctl(option, (unsigned long)arg2, (unsigned long)arg3, (unsigned long)arg4,
                              (unsigned long)arg5));
    return int_or_raise(result, NULL);
}

static PyObject *
py_seccomp(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"flags", "program", NULL};
    uint32_t flags;
    PyObject *given;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&S:seccomp", keywords, native_uint32_from,
                                     &flags, &given)) {
        return NULL;
    }
    Py_ssize_t size;
    char *bytes;
    if (PyBytes_AsStringAndSize(given, &bytes, &size) < 0) {
        return NULL;
    }
    size_t one = sizeof(struct sock_filter);
    if (size == 0 || (size_t)size % one != 0 || (size_t)size / one > BPF_MAXINSNS) {
        PyErr_SetString(PyExc_ValueError, "not the instructions of a filter");
        return NULL;
    }
    struct sock_filter *filter = PyMem_Malloc((size_t)size);
    if (filter == NULL) {
        return PyErr_NoMemory();
    }
    memcpy(filter, bytes, (size_t)size);
    struct sock_fprog program = {.len = (unsigned short)((size_t)size / one), .filter = filter};
    long result;
    NATIVE_CALL(result, syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program));
    int failure = errno;
    PyMem_Free(filter);
    errno = failure;
    if (result > 0) { // SECCOMP_FILTER_FLAG_TSYNC: the number of a thread with another filter
        errno = EBUSY;
        result = -1;
    }
    return none_or_raise(result, NULL, NULL);
}

static PyObject *
py_signalfd(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"mask", NULL};
    uint64_t mask;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&:signalfd", keywords, native_uint64_from,
                                     &mask)) {
        return NULL;
    }
    sigset_t signals;
    sigemptyset(&signals);
    for (int number = 1; number <= 64; number++) {
        if (mask >> (number - 1) & 1) {
            sigaddset(&signals, number);
        }
    }
    int fd;
    NATIVE_CALL(fd, signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
    return int_or_raise(fd, NULL);
}

PyMethodDef native_syscall_methods[] = {
    NATIVE_METHOD(openat2, "($module, /, dirfd, path, flags, mode=0, resolve=0)",
                  "openat2(2): open a file, with limits on how its path is resolved."),
    NATIVE_METHOD(renameat2, "($module, /, olddirfd, oldpath, newdirfd, newpath, flags=0)",
                  "renameat2(2): rename, exchange, or rename and leave a whiteout."),
    NATIVE_METHOD(statx, "($module, /, dirfd, path, flags, mask)",
                  "statx(2): the attributes of an inode, as a Statx."),
    NATIVE_METHOD(utimensat, "($module, /, dirfd, path, atime_ns, mtime_ns, flags=0)",
                  "utimensat(2): set times in nanoseconds; None keeps one."),
    NATIVE_METHOD(
        name_to_handle_at, "($module, /, dirfd, path, flags=0)",
        "name_to_handle_at(2): the file system's identifier of an inode, as a FileHandle."),
    NATIVE_METHOD(open_by_handle_at, "($module, /, mount_fd, handle_type, handle, flags)",
                  "open_by_handle_at(2): a descriptor of the inode of a FileHandle."),
    NATIVE_METHOD(getdents64, "($module, /, fd, count)",
                  "getdents64(2): the next entries of an open directory."),
    NATIVE_METHOD(fstatfs, "($module, /, fd)",
                  "fstatfs(2): f_type, the kind of the file system, which os.fstatvfs lacks."),
    NATIVE_METHOD(open_tree, "($module, /, dirfd, path, flags)",
                  "open_tree(2): a descriptor of a mount, or of a private clone of it."),
    NATIVE_METHOD(move_mount, "($module, /, from_dirfd, from_path, to_dirfd, to_path, flags)",
                  "move_mount(2): attach or move a mount."),
    NATIVE_METHOD(mount_setattr,
                  "($module, /, dirfd, path, flags, attr_set=0, attr_clr=0, propagation=0, "
                  "userns_fd=0)",
                  "mount_setattr(2): change a mount's attributes, propagation or id mapping."),
    NATIVE_METHOD(fsopen, "($module, /, fstype, flags)",
                  "fsopen(2): begin to configure a file system."),
    NATIVE_METHOD(fsconfig, "($module, /, fd, command, key, value, aux=0)",
                  "fsconfig(2): configure it; fd then reads as the kernel's messages."),
    NATIVE_METHOD(fsmount, "($module, /, fd, flags, attr_flags)",
                  "fsmount(2): a descriptor of a new, unattached mount of it."),
    NATIVE_METHOD(mount, "($module, /, source, target, fstype, flags, data=None)",
                  "mount(2): mount, remount, bind, move, or set propagation."),
    NATIVE_METHOD(umount2, "($module, /, target, flags)", "umount2(2): unmount."),
    NATIVE_METHOD(unshare, "($module, /, flags)", "unshare(2): enter new namespaces."),
    NATIVE_METHOD(setns, "($module, /, fd, nstype)",
                  "setns(2): enter a namespace, or several of the process of a pidfd."),
    NATIVE_METHOD(close_range, "($module, /, first, last, flags)",
                  "close_range(2): close descriptors first to last, or mark them close-on-exec."),
    NATIVE_METHOD(prctl, "($module, /, option, arg2=0, arg3=0, arg4=0, arg5=0)",
                  "prctl(2): change how the kernel treats this process."),
    NATIVE_METHOD(seccomp, "($module, /, flags, program)",
                  "seccomp(2): filter the system calls of this process."),
    NATIVE_METHOD(
        signalfd, "($module, /, mask)",
        "signalfd(2): a descriptor that is readable while a signal of the mask is pending."),
    {NULL, NULL, 0, NULL},
};

int
native_syscalls_init(PyObject *module, native_state *state)
{
    state->statx = PyStructSequence_NewType(&statx_desc);
    if (state->statx == NULL ||
        PyModule_AddObjectRef(module, "Statx", (PyObject *)state->statx) < 0) {
        return -1;
    }
    state->file_handle = PyStructSequence_NewType(&file_handle_desc);
    if (state->file_handle == NULL ||
        PyModule_AddObjectRef(module, "FileHandle", (PyObject *)state->file_handle) < 0) {
        return -1;
    }
    return 0;
}
