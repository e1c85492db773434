/* System calls that Python 3.11 lacks, each under the kernel's name.
 *
 * Most are rows of a table. A letter for each argument says how it becomes a word of syscall(2):
 *
 *     i  an int
 *     u  an unsigned int of 32 bits, q of 64
 *     c  as u, with O_CLOEXEC; f  with FSOPEN_CLOEXEC, which is FSMOUNT_CLOEXEC too
 *     p  a path, which an error names
 *     s  a string, z a string or None
 *     m  an unsigned int of 64 bits in a struct: members that follow one another are passed as its
 *        address and its size; o  as m, with O_CLOEXEC
 *     b  a bytearray that is large enough for what any of the calls writes
 *     B  a bytearray, which is passed as its address and its size
 *     F  the instructions of a filter
 *
 * Those after "|" have a default: 0 or None. All are positional. */
#include "native.h"

#include <linux/filter.h>
#include <sys/syscall.h>

enum { MOST_ARGUMENTS = 7, MOST_WORDS = 6, MOST_MEMBERS = 4, LEAST_BUFFER_BYTES = 256 };

struct call {
    long number;
    const char *types;
    enum {
        NOTHING,        /* None */
        RESULT,         /* of the call */
        RESULT_OR_NONE, /* None for an absent attribute: an exception costs more than the call */
    } answers;
    PyMethodDef method;
};

static PyObject *py_call(PyObject *call, PyObject *const *args, Py_ssize_t count);

#define ROW(name, types_, answers_, parameters)                                                    \
    {.number = SYS_##name,                                                                         \
     .types = types_,                                                                              \
     .answers = answers_,                                                                          \
     .method = {#name, (PyCFunction)(void (*)(void))py_call, METH_FASTCALL,                        \
                #name "($module, " parameters ", /)\n--\n\n"}}

static struct call calls[] = {
    ROW(openat2, "ipo|mm", RESULT, "dirfd, path, flags, mode=0, resolve=0"),
    ROW(renameat2, "ipip|u", NOTHING, "olddirfd, oldpath, newdirfd, newpath, flags=0"),
    ROW(statx, "ipiub", NOTHING, "dirfd, path, flags, mask, statxbuf"),
    ROW(getxattr, "psB", RESULT_OR_NONE, "path, name, value"),
    ROW(lgetxattr, "psB", RESULT_OR_NONE, "path, name, value"),
    ROW(fgetxattr, "isB", RESULT_OR_NONE, "fd, name, value"),
    ROW(listxattrat, "ipuB", RESULT, "dirfd, path, at_flags, list"),
    ROW(getdents64, "iB", RESULT, "fd, dirp"),
    ROW(fstatfs, "ib", NOTHING, "fd, buf"),
    ROW(utimensat, "ipbi", NOTHING, "dirfd, path, times, flags"),
    ROW(name_to_handle_at, "ipbb|i", NOTHING, "dirfd, path, handle, mount_id, flags=0"),
    ROW(open_by_handle_at, "ibc", RESULT, "mount_fd, handle, flags"),
    ROW(open_tree, "ipc", RESULT, "dirfd, path, flags"),
    ROW(move_mount, "ipipu", NOTHING, "from_dirfd, from_path, to_dirfd, to_path, flags"),
    ROW(mount_setattr, "ipu|mmmm", NOTHING,
        "dirfd, path, flags, attr_set=0, attr_clr=0, propagation=0, userns_fd=0"),
    ROW(fsopen, "sf", RESULT, "fstype, flags"),
    ROW(fsconfig, "iuzz|i", NOTHING, "fd, command, key, value, aux=0"),
    ROW(fsmount, "ifu", RESULT, "fd, flags, attr_flags"),
    ROW(mount, "zpzq|z", NOTHING, "source, target, fstype, flags, data=None"),
    ROW(umount2, "pi", NOTHING, "target, flags"),
    ROW(pivot_root, "pp", NOTHING, "new_root, put_old"),
    ROW(unshare, "i", NOTHING, "flags"),
    ROW(setns, "ii", NOTHING, "fd, nstype"),
    ROW(close_range, "uuu", NOTHING, "first, last, flags"),
    ROW(prctl, "i|qqqq", RESULT, "option, arg2=0, arg3=0, arg4=0, arg5=0"),
    ROW(seccomp, "uuF", RESULT, "operation, flags, program"),
    ROW(quotactl_fd, "iuub", NOTHING, "fd, cmd, id, addr"),
    ROW(capget, "bb", NOTHING, "header, sets"),
    ROW(capset, "bb", NOTHING, "header, sets"),
    ROW(sync_file_range, "iqqu", NOTHING, "fd, offset, nbytes, flags"),
    ROW(signalfd4, "imc", RESULT, "fd, mask, flags"),
};

enum { CALLS = sizeof(calls) / sizeof(calls[0]) };

struct argument {
    char type;
    uint64_t number;
    Py_ssize_t size;   /* of a bytearray */
    PyObject *encoded; /* a string as bytes; NULL for None */
    struct sock_fprog filter;
};

/* Returns 0 with an exception set. */
static int argument_from(PyObject *given, struct argument *argument)
{
    int overflow;
    char *bytes;
    switch (argument->type) {
    case 'p':
    case 's':
    case 'z':
        return (argument->type == 'z' && given == Py_None) ||
               PyUnicode_FSConverter(given, &argument->encoded);
    case 'i':
        argument->number = (uint64_t)PyLong_AsLongAndOverflow(given, &overflow);
        if (PyErr_Occurred())
            return 0;
        if (!overflow && (int64_t)argument->number == (int)argument->number)
            return 1;
        PyErr_SetString(PyExc_OverflowError, "not an int of 32 bits");
        return 0;
    case 'F':
        if (PyBytes_AsStringAndSize(given, &bytes, &argument->size) < 0)
            return 0;
        /* Without whole instructions, or with too many, it is an empty one: EINVAL. */
        size_t count = (size_t)argument->size / sizeof(struct sock_filter);
        bool fits = argument->size % sizeof(struct sock_filter) == 0 && count <= BPF_MAXINSNS;
        argument->filter.len = fits ? (unsigned short)count : 0;
        argument->filter.filter = (void *)bytes;
        return 1;
    case 'b':
    case 'B':
        if (!PyByteArray_Check(given) ||
            (argument->type == 'b' && PyByteArray_Size(given) < LEAST_BUFFER_BYTES)) {
            PyErr_SetString(PyExc_TypeError, "not a bytearray of 256 bytes or more");
            return 0;
        }
        argument->size = PyByteArray_Size(given);
        argument->number = (uintptr_t)PyByteArray_AsString(given);
        return 1;
    default:
        argument->number = PyLong_AsUnsignedLongLong(given);
        if (!PyErr_Occurred() && argument->number > UINT32_MAX && !strchr("moq", argument->type))
            PyErr_SetString(PyExc_OverflowError, "int too large for 32 bits");
        return !PyErr_Occurred();
    }
}

/* The word of an argument that is no member of a struct. */
static long word_of(struct argument *argument)
{
    switch (argument->type) {
    case 'p':
    case 's':
    case 'z':
        return argument->encoded ? (long)PyBytes_AsString(argument->encoded) : 0;
    case 'F':
        return (long)&argument->filter;
    case 'c':
        return (long)(argument->number | O_CLOEXEC);
    case 'f':
        return (long)(argument->number | FSOPEN_CLOEXEC);
    default:
        return (long)argument->number;
    }
}

/* Convert the arguments, of which `given` has room for all, zeroed. Returns their number, or -1
 * with an exception set. */
static int take_arguments(const struct call *call, PyObject *const *args, Py_ssize_t count,
                          struct argument *given)
{
    int taken = 0;
    bool optional = false;
    for (const char *type = call->types; *type; type++) {
        if (*type == '|') {
            optional = true;
            continue;
        }
        given[taken].type = *type;
        if (taken < count ? !argument_from(args[taken], &given[taken]) : !optional)
            break;
        taken++;
    }
    if (!PyErr_Occurred() && (taken < count || call->types[taken + optional]))
        PyErr_Format(PyExc_TypeError, "%s: the number of arguments is wrong", call->method.ml_name);
    return PyErr_Occurred() ? -1 : taken;
}

static PyObject *py_call(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    const struct call *call = PyCapsule_GetPointer(self, NULL);
    struct argument given[MOST_ARGUMENTS] = {0};
    uint64_t members[MOST_MEMBERS];
    long words[MOST_WORDS] = {0}, result;
    size_t used = 0, inside = 0, named = 0;
    PyObject *paths[2] = {NULL, NULL};
    PyObject *answer = NULL;
    int taken = take_arguments(call, args, count, given);
    for (int i = 0; i < taken; i++) {
        bool is_member = given[i].type == 'm' || given[i].type == 'o';
        if (is_member && inside == 0) {
            words[used++] = (long)members;
            used++; /* the size, below */
        }
        if (is_member) {
            members[inside++] = given[i].number | (given[i].type == 'o' ? O_CLOEXEC : 0);
            words[used - 1] = (long)(inside * sizeof(*members));
        } else {
            words[used++] = word_of(&given[i]);
        }
        if (given[i].type == 'B')
            words[used++] = given[i].size;
        if (given[i].type == 'p')
            paths[named++] = args[i];
    }
    if (taken >= 0) {
        /* After EINTR run Python's signal handlers and, unless one raises, repeat it (PEP 475). */
        do {
            Py_BEGIN_ALLOW_THREADS;
            result =
                syscall(call->number, words[0], words[1], words[2], words[3], words[4], words[5]);
            Py_END_ALLOW_THREADS;
        } while (result < 0 && errno == EINTR && PyErr_CheckSignals() == 0);
        bool absent = result < 0 && (errno == ENODATA || errno == EOPNOTSUPP);
        if (result < 0 && !(absent && call->answers == RESULT_OR_NONE)) {
            if (!PyErr_Occurred())
                PyErr_SetFromErrnoWithFilenameObjects(PyExc_OSError, paths[0], paths[1]);
        } else
            answer =
                call->answers == NOTHING || absent ? Py_NewRef(Py_None) : PyLong_FromLong(result);
    }
    for (int i = 0; i < MOST_ARGUMENTS; i++)
        Py_XDECREF(given[i].encoded);
    return answer;
}

int native_syscalls_init(PyObject *module)
{
    for (struct call *call = calls; call < calls + CALLS; call++) {
        PyObject *self = PyCapsule_New(call, NULL, NULL);
        PyObject *function = self ? PyCFunction_NewEx(&call->method, self, NULL) : NULL;
        int result = PyModule_AddObjectRef(module, call->method.ml_name, function);
        Py_XDECREF(function);
        Py_XDECREF(self);
        if (result < 0)
            return -1;
    }
    return 0;
}
