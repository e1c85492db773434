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

static struct call calls[] = {
#define ROW(name, types_, answers_, parameters)                                                    \
    {.number = SYS_##name,                                                                         \
     .types = types_,                                                                              \
     .answers = answers_,                                                                          \
     .method = {#name, (PyCFunction)(void (*)(void))py_call, METH_FASTCALL,                        \
                #name "($module, " parameters ", /)\n--\n\n"}},
#include "syscalls.h" /* made from _native.pyi by setup/headers.py */
#undef ROW
};

enum { CALLS = sizeof(calls) / sizeof(calls[0]) };

/* The words of a call, and what they point to. */
struct words {
    long all[MOST_WORDS];
    uint64_t members[MOST_MEMBERS];
    struct sock_fprog filter;
    PyObject *encoded[MOST_ARGUMENTS]; /* strings as bytes; the others are NULL */
    PyObject *paths[2];
};

/* Convert an argument to a word. Returns false with an exception set. */
static bool word_from(char type, PyObject *given, struct words *words, PyObject **encoded,
                      uint64_t *word)
{
    int number;
    char *bytes;
    Py_ssize_t size;
    switch (type) {
    case 'p':
    case 's':
    case 'z':
        if (type == 'z' && given == Py_None)
            return true;
        if (!PyUnicode_FSConverter(given, encoded))
            return false;
        *word = (uintptr_t)PyBytes_AsString(*encoded);
        return true;
    case 'i':
        if (!PyArg_Parse(given, "i", &number))
            return false;
        *word = (uint64_t)number;
        return true;
    case 'F':
        if (PyBytes_AsStringAndSize(given, &bytes, &size) < 0)
            return false;
        /* Without whole instructions, or with too many, it is an empty one: EINVAL. */
        size_t count = (size_t)size / sizeof(struct sock_filter);
        bool fits = size % sizeof(struct sock_filter) == 0 && count <= BPF_MAXINSNS;
        words->filter.len = fits ? (unsigned short)count : 0;
        words->filter.filter = (void *)bytes;
        *word = (uintptr_t)&words->filter;
        return true;
    case 'b':
    case 'B':
        if (!PyByteArray_Check(given) ||
            (type == 'b' && PyByteArray_Size(given) < LEAST_BUFFER_BYTES)) {
            PyErr_SetString(PyExc_TypeError, "not a bytearray of 256 bytes or more");
            return false;
        }
        *word = (uintptr_t)PyByteArray_AsString(given);
        return true;
    default:
        *word = PyLong_AsUnsignedLongLong(given);
        if (!PyErr_Occurred() && *word > UINT32_MAX && !strchr("moq", type))
            PyErr_SetString(PyExc_OverflowError, "int too large for 32 bits");
        *word |= type == 'c' || type == 'o' ? O_CLOEXEC : type == 'f' ? FSOPEN_CLOEXEC : 0;
        return !PyErr_Occurred();
    }
}

/* Fill in the words, which are zeroed. Returns false with an exception set. */
static bool take_words(const struct call *call, PyObject *const *args, Py_ssize_t count,
                       struct words *words)
{
    size_t used = 0, inside = 0, named = 0;
    Py_ssize_t at = 0;
    bool optional = false, complete = true;
    for (const char *type = call->types; *type && complete; type++) {
        uint64_t word = 0;
        if (*type == '|') {
            optional = true;
            continue;
        }
        complete = at < count || optional;
        if (at < count && !word_from(*type, args[at], words, &words->encoded[at], &word))
            return false;
        if (*type == 'm' || *type == 'o') {
            words->members[inside++] = word;
            if (inside == 1) {
                words->all[used] = (long)words->members;
                used += 2;
            }
            words->all[used - 1] = (long)(inside * sizeof *words->members);
        } else {
            words->all[used++] = (long)word;
        }
        if (*type == 'B' && at < count)
            words->all[used++] = PyByteArray_Size(args[at]);
        if (*type == 'p' && at < count)
            words->paths[named++] = args[at];
        at++;
    }
    if (complete && at >= count)
        return true;
    PyErr_Format(PyExc_TypeError, "%s: the number of arguments is wrong", call->method.ml_name);
    return false;
}

static PyObject *py_call(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    const struct call *call = PyCapsule_GetPointer(self, NULL);
    struct words words = {0};
    const long *all = words.all;
    long result;
    PyObject *answer = NULL;
    if (take_words(call, args, count, &words)) {
        /* After EINTR run Python's signal handlers and, unless one raises, repeat it (PEP 475). */
        do {
            Py_BEGIN_ALLOW_THREADS;
            result = syscall(call->number, all[0], all[1], all[2], all[3], all[4], all[5]);
            Py_END_ALLOW_THREADS;
        } while (result < 0 && errno == EINTR && PyErr_CheckSignals() == 0);
        bool absent = result < 0 && (errno == ENODATA || errno == EOPNOTSUPP);
        if (result < 0 && !(absent && call->answers == RESULT_OR_NONE)) {
            if (!PyErr_Occurred())
                PyErr_SetFromErrnoWithFilenameObjects(PyExc_OSError, words.paths[0],
                                                      words.paths[1]);
        } else
            answer =
                call->answers == NOTHING || absent ? Py_NewRef(Py_None) : PyLong_FromLong(result);
    }
    for (int i = 0; i < MOST_ARGUMENTS; i++)
        Py_XDECREF(words.encoded[i]);
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
