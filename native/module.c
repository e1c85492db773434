/* The module overlaykit._native: its constants, its types, and the argument converters.
 *
 * The contract is overlaykit/_native.pyi. Built against the limited API of CPython 3.11.
 */
#include "native.h"

#include "names.h"

#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/openat2.h>
#include <sched.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>

static const struct {
    const char *name;
    long value;
} constants[] = {
#define CONSTANT(name) {#name, (long)name},
#include "constants.h" /* made from _native.pyi by setup/headers.py */
#undef CONSTANT
};

int
native_path_from(PyObject *given, void *address)
{
    native_path *path = address;
    if (given == NULL) { /* a later argument was rejected */
        native_path_release(path);
        return 0;
    }
    if (!PyUnicode_FSConverter(given, &path->encoded))
        return 0;
    path->given = given;
    path->name = PyBytes_AsString(path->encoded);
    return Py_CLEANUP_SUPPORTED;
}

int
native_path_or_none_from(PyObject *given, void *address)
{
    if (given == Py_None) {
        *(native_path *)address = (native_path){0};
        return Py_CLEANUP_SUPPORTED;
    }
    return native_path_from(given, address);
}

void
native_path_release(native_path *path)
{
    Py_CLEAR(path->encoded);
}

int
native_uint64_from(PyObject *given, void *address)
{
    unsigned long long value = PyLong_AsUnsignedLongLong(given);
    if (value == (unsigned long long)-1 && PyErr_Occurred())
        return 0;
    *(uint64_t *)address = value;
    return 1;
}

int
native_uint32_from(PyObject *given, void *address)
{
    uint64_t value;
    if (!native_uint64_from(given, &value))
        return 0;
    if (value > UINT32_MAX) {
        PyErr_SetString(PyExc_OverflowError, "int too large for 32 bits");
        return 0;
    }
    *(uint32_t *)address = (uint32_t)value;
    return 1;
}

PyObject *
native_raise(const native_path *path, const native_path *second)
{
    if (PyErr_Occurred())
        return NULL;
    return PyErr_SetFromErrnoWithFilenameObjects(PyExc_OSError, path ? path->given : NULL,
                                                 second ? second->given : NULL);
}

static int
module_exec(PyObject *module)
{
    for (size_t i = 0; i < sizeof(constants) / sizeof(constants[0]); i++)
        if (PyModule_AddIntConstant(module, constants[i].name, constants[i].value) < 0)
            return -1;
    return native_syscalls_init(module);
}

void
native_append(PyObject **list, PyObject *value)
{
    if (!value || PyList_Append(*list, value) < 0)
        Py_CLEAR(*list);
    Py_XDECREF(value);
}

static PyMethodDef methods[] = {
#define METHOD(name, flags, parameters)                                                            \
    {#name, py_##name, flags, #name "($module" parameters ", /)\n--\n\n"},
#include "methods.h" /* as constants.h */
#undef METHOD
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = "The system calls that Python 3.11 lacks.",
    .m_methods = methods,
    .m_slots = module_slots,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModuleDef_Init(&module_def);
}
