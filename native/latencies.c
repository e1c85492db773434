/* How many requests the data plane has answered, and how long they took (fuse/statistics.py). */
#include "latencies.h"

enum { OPCODES = 64, LATENCIES = 16 };

static uint64_t answered[OPCODES][LATENCIES]; /* by the time that it took, below 1024 << n ns */
static uint64_t spent[OPCODES];               /* ns */

void
latencies_add(uint32_t opcode, uint64_t nanoseconds)
{
    unsigned latency = 0;
    while (latency < LATENCIES - 1 && nanoseconds >> (10 + latency))
        latency++;
    answered[opcode % OPCODES][latency]++;
    spent[opcode % OPCODES] += nanoseconds;
}

PyObject *
py_plane_counts(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    PyObject *kinds = PyList_New(0);
    for (size_t kind = 0; kinds && kind < OPCODES; kind++) {
        PyObject *all = Py_BuildValue("[K]", (unsigned long long)spent[kind]);
        for (size_t at = 0; all && at < LATENCIES; at++) {
            PyObject *number = PyLong_FromUnsignedLongLong(answered[kind][at]);
            if (!number || PyList_Append(all, number) < 0)
                Py_CLEAR(all);
            Py_XDECREF(number);
        }
        if (!all || PyList_Append(kinds, all) < 0)
            Py_CLEAR(kinds);
        Py_XDECREF(all);
    }
    return kinds;
}
