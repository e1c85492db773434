/* The module overlaykit._native: its constants and its functions.
 *
 * The contract is overlaykit/_native.pyi. Built against the limited API of CPython 3.11.
 */
#include "native.h"

#include "names.h"
#include "protocol.h"

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

static int module_exec(PyObject *module)
{
    for (size_t i = 0; i < sizeof(constants) / sizeof(constants[0]); i++)
        if (PyModule_AddIntConstant(module, constants[i].name, constants[i].value) < 0)
            return -1;
    return native_syscalls_init(module);
}

void native_append(PyObject **list, PyObject *value)
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

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&module_def); }
