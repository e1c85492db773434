/* Shared by the files of overlaykit._native.
 *
 * Only session.c, plane.c and kept.c keep state outside the module object, of a session that begins
 * after each fork. */
#ifndef OVERLAYKIT_NATIVE_H
#define OVERLAYKIT_NATIVE_H

#include <Python.h>

#include "missing.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define UNKNOWN_INODE 0xffffffff /* of a listing's entry; as libfuse's own FUSE_UNKNOWN_INO */

/* The generation of a listing's entry without a nodeid (session.c), and of one in the reply to a
 * READDIR. No node has these: the kernel keeps 32 bits of a generation. */
#define NAME_ONLY 1
#define PLAIN_ENTRY (1ULL << 32)

/* In a file handle: it is of the data plane. No handle of Python's has it. */
#define OUR_HANDLE (1ULL << 61)

/* In the file handle of a WRITE: it does not come from the kernel's cache (session.c). */
#define PAST_CACHE (1ULL << 63)

/* In the file handle of a READDIR, which libfuse takes for a READDIRPLUS. No nodeid has it. */
#define PLAIN_LISTING (1ULL << 63)

/* In the file handle of a WRITE: it clears the set-ID bits (session.c). No handle has it. */
#define CLEARS_SET_IDS (1L << 62)

/* In the pid of a SETATTR or a SETXATTR: it clears set-ID bits (session.c). No pid has it. */
#define PID_CLEARS_SET_IDS (1 << 30)

/* In the file handle of a reply: the kernel reads and writes the file below itself, and the bits
 * from BACKING_SHIFT on are its number of that (session.c). No handle has it. */
#define BACKED (1L << 60)
#define BACKING_SHIFT 32

/* Append a new value, which is taken over, to a list. After a failure there is no list, but an
 * exception. */
void native_append(PyObject **list, PyObject *value);

/* The functions of the module that are no rows of the table of system calls. */
#define METHOD(name, flags, parameters) PyObject *py_##name(PyObject *module, PyObject *arguments);
#include "methods.h" /* made from _native.pyi by setup/headers.py */
#undef METHOD

/* Add the system calls of a table. Returns 0, or -1 with an exception set. */
int native_syscalls_init(PyObject *module);

#endif
