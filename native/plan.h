/* The plan of a view: plain bytes made by Python, read and checked whole before a step is carried
 * out. That the steps make sense together is checked where they are made (namespace/plan.py).
 *
 *     plan    "overlaykit plan\0", u32 version, u32 size of the plan in bytes, records
 *     record  u16 code of the step, u16 number of arguments, arguments
 *     argument  u32 length, so many bytes
 *
 * in the machine's byte order. The signature of a step has a letter for each argument:
 *
 *     u  an unsigned integer of 8 bytes
 *     the number of a slot, 4 bytes
 *         d  that is filled;  m  that the step fills;  c  whose descriptor the step takes over
 *     s  a string: its NUL is counted, and it holds no other
 *     x  bytes of any kind;  f  the instructions of a filter
 *     w  the words of a system call: each a letter, u, d, x or f, and what that stands for
 *     l  a list: strings, one after another
 *
 * A slot holds a descriptor: an inherited one, or one that a step makes. A step with an empty slot
 * is skipped. */
#ifndef OVERLAYKIT_PLAN_H
#define OVERLAYKIT_PLAN_H

#include "plan_forms.h" /* made from namespace/plan.py by setup/headers.py */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MOST_ARGUMENTS = 8, MOST_WORDS = 6 };

#define STEP(code, number, ...) STEP_##code = (number),
enum step { PLAN_STEPS(STEP) STEPS };
#undef STEP

struct argument {
    const char *bytes;
    size_t length;
    uint64_t number; /* of integers and slots */
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
    int slots[PLAN_MOST_SLOTS]; /* a descriptor + 1; 0: empty */
};

/* Read the plan from the descriptor `from`, close it, and check all of it. Fills the slots of
 * inherited descriptors. Returns 0, or -1 with `*refusal` set to a line that names the record. */
int plan_read(struct plan *plan, int from, const char **refusal);

/* Read the next record. Returns false at the end. */
bool plan_next(struct cursor *cursor, struct record *record);

/* Read the next word of an argument with the letter w. Returns false at the end. */
bool plan_word(struct cursor *cursor, char *letter, struct argument *word);

/* The letters of its arguments. */
const char *plan_signature(enum step step);

/* The arguments of the only record of `step` in a section, until the next call; NULL if there is
 * none. */
const struct argument *plan_find(const struct plan *plan, enum section section, enum step step);

/* The string after `string` in a list, the first one for NULL. Returns NULL at the end. */
const char *list_next(const struct argument *list, const char *string);

size_t list_count(const struct argument *list);

/* The strings of a list as execve(2) takes them, with room for `more` of them. Returns NULL with
 * errno set. */
char **list_vector(const struct argument *list, size_t more);

/* A descriptor of a slot, -1 if it is empty. */
int slot_descriptor(const struct plan *plan, const struct argument *slot);

void slot_fill(struct plan *plan, const struct argument *slot, int descriptor);

/* Give the memory of the sections from `first` to `last` back to the kernel: they are carried
 * out. */
void plan_forget(struct plan *plan, enum section first, enum section last);

#endif
