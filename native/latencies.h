/* Statistics of the data plane: latencies.c. */
#ifndef OVERLAYKIT_LATENCIES_H
#define OVERLAYKIT_LATENCIES_H

#include "native.h"

/* libfuse is loaded later, and would find these symbols first. */
#pragma GCC visibility push(hidden)

/* Count a request. */
void latencies_add(uint32_t opcode, uint64_t nanoseconds);

PyObject *py_plane_counts(PyObject *module, PyObject *args);

#pragma GCC visibility pop

#endif
