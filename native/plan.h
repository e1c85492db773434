/* The plan of a view: plain bytes made by Python, read and checked whole before a step is carried
 * out. That the steps make sense together is checked where they are made (namespace/plan.py).
 *
 *     plan    "overlaykit plan\0", u32 version, u32 size of the plan in bytes, records
 *     record  u16 code of the step, u16 number of arguments, arguments
 *     argument  u32 length, so many bytes
 *
 * in the machine's byte order. The signature of a step has a letter for each argument:
 *
 *     an unsigned integer of 8 bytes
 *         u  any;  n  up to what the step allows;  b  0 or 1
 *         a  attributes of a mount;  i  a user or a group;  k  CLONE_NEW*
 *     the number of a slot, 4 bytes
 *         d  that is filled;  m  that the step fills;  c  whose descriptor the step takes over
 *     a string: its NUL is counted, and it holds no other
 *         s  any;  /  an absolute path;  h  a host name;  e  a directory's entry
 *         F  the name of a failure
 *     a list: strings, one after another
 *         l  any;  v  a program and its arguments;  o  keys and values;  P  absolute paths
 *
 * A slot holds a descriptor: an inherited one, or one that a step makes. A step with an empty slot
 * is skipped. */
#ifndef OVERLAYKIT_PLAN_H
#define OVERLAYKIT_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PLAN_VERSION = 1,
    PLAN_MOST_BYTES = 8 << 20,
    MOST_ARGUMENTS = 8,
    MOST_SLOTS = 4096,
    FILTER_INSTRUCTION_BYTES = 8,    /* struct sock_filter */
    FILTER_MOST_INSTRUCTIONS = 4096, /* BPF_MAXINSNS */
};

/* In the order in which they come in a plan. */
enum section {
    SECTION_PLAN,    /* describes, carries out nothing */
    SECTION_MONITOR, /* carried out before init is forked */
    SECTION_INIT,
    SECTION_COMMAND,
    SECTION_END, /* carried out by the monitor after init has ended */
    SECTIONS,
};

#define STEP(code, ...) STEP_##code,
enum step {
    STEP_NONE,
#include "steps.h"
    STEPS,
};
#undef STEP

/* Flags of STEP_FRESH and STEP_CLONE. */
enum {
    MOUNT_OPTIONAL = 1, /* an error leaves the slot empty */
    MOUNT_UNLESS_FILLED = 2,
    MOUNT_OPTIONAL_IF_EPERM = 4,
    MOUNT_OPTIONAL_IF_ENOENT = 8, /* of STEP_CLONE */
};

/* Flags of STEP_COVER. */
enum {
    COVER_MAKE = 1,     /* a file that is missing is made, if it can be */
    COVER_REQUIRED = 2, /* a failure if nothing is covered */
};

/* A flag of STEP_TERMINAL. */
enum { TERMINAL_INTERACTIVE = 1 };

/* Of STEP_USER: what becomes of the supplementary groups. */
enum {
    GROUPS_KEPT,
    GROUPS_SET, /* to those of the steps STEP_GROUP */
    GROUPS_SET_IF_PERMITTED,
};

/* A flag of STEP_SESSION. */
enum { SESSION_WITH_PTY = 1 };

/* Flags of STEP_PROTECT. */
enum {
    PROTECT_OWN_NETWORK = 1, /* /proc/sys/net stays writable */
    PROTECT_MACHINE = 2, /* where the machine's root is mapped, all of procfs but its processes */
};

/* A flag of STEP_ATTACH. */
enum { ATTACH_IF_TARGET_EXISTS = 1 };

struct argument {
    const char *bytes;
    size_t length;
    uint64_t number; /* of the letters u and d */
};

struct record {
    enum step step;
    struct argument arguments[MOST_ARGUMENTS];
};

/* What remains of a plan or of one section. */
struct cursor {
    const char *at, *end;
};

struct plan {
    char *bytes;
    size_t size;
    struct cursor sections[SECTIONS];
    int slots[MOST_SLOTS]; /* a descriptor + 1; 0: empty */
};

/* Read the plan from the descriptor `from`, close it, and check all of it. Fills the slots of
 * inherited descriptors. Returns 0, or -1 with `*refusal` set to a line that names the record. */
int plan_read(struct plan *plan, int from, const char **refusal);

/* Read the next record. Returns false at the end. */
bool plan_next(struct cursor *cursor, struct record *record);

/* The letters of its arguments. */
const char *plan_signature(enum step step);

/* The only record of `step` in a section; false if there is none. */
bool plan_find(const struct plan *plan, enum section section, enum step step,
               struct record *record);

/* The string after `string` in a list, the first one for NULL. Returns NULL at the end. */
const char *list_next(const struct argument *list, const char *string);

size_t list_count(const struct argument *list);

/* The strings of a list as execve(2) takes them, with room for `more` of them. Returns NULL with
 * errno set. */
char **list_vector(const struct argument *list, size_t more);

/* A descriptor of a slot, -1 if it is empty. */
int slot_descriptor(const struct plan *plan, const struct argument *slot);

void slot_fill(struct plan *plan, const struct argument *slot, int descriptor);

/* Close a slot's descriptor and leave the slot empty. */
void slot_close(struct plan *plan, const struct argument *slot);

/* Give the memory of the sections from `first` to `last` back to the kernel: they are carried
 * out. */
void plan_forget(struct plan *plan, enum section first, enum section last);

#endif
