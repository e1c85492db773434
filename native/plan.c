/* Read and check a plan. */
#include "plan.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC "overlaykit plan"

enum { FIRST_DESCRIPTOR = 3 }; /* after the standard ones */

struct form {
    const char *name, *signature;
};

#define STEP(code, number, ...) [STEP_##code] = {__VA_ARGS__},
static const struct form forms[STEPS] = {PLAN_STEPS(STEP)};

#define CALL(name) CALL_##name,
enum { PLAN_CALLS(CALL) CALLS };

/* ---- reading -------------------------------------------------------------------------------- */

static bool take(struct cursor *cursor, void *to, size_t length)
{
    if ((size_t)(cursor->end - cursor->at) < length)
        return false;
    memcpy(to, cursor->at, length);
    cursor->at += length;
    return true;
}

/* Whether bytes are the words of a system call. */
static bool are_words(struct cursor cursor)
{
    struct argument word;
    char letter;
    for (int count = 0; cursor.at < cursor.end; count++)
        if (count == MOST_WORDS || !plan_word(&cursor, &letter, &word))
            return false;
    return true;
}

/* Take an argument of the type `letter`. Returns NULL, or what is wrong. */
static const char *take_argument(struct cursor *cursor, char letter, struct argument *argument)
{
    uint32_t length, slot;
    if (!take(cursor, &length, sizeof length) || length > (size_t)(cursor->end - cursor->at))
        return "an argument is longer than the plan";
    *argument = (struct argument){.bytes = cursor->at, .length = length};
    cursor->at += length;
    switch (letter) {
    case 'w':
        return are_words((struct cursor){argument->bytes, cursor->at}) ? NULL : "it has no words";
    case 'u':
        if (length != sizeof argument->number)
            return "an integer has not 8 bytes";
        memcpy(&argument->number, argument->bytes, length);
        break;
    case 'd':
    case 'm':
    case 'c':
        if (length != sizeof slot)
            return "a slot has not 4 bytes";
        memcpy(&slot, argument->bytes, length);
        argument->number = slot;
        return slot < PLAN_MOST_SLOTS ? NULL : "there is no such slot";
    case 's':
        if (!length || memchr(argument->bytes, '\0', length) != argument->bytes + length - 1)
            return "a string does not end with its only NUL";
        break;
    case 'l':
        if (length && argument->bytes[length - 1])
            return "a list does not end with NUL";
    }
    return NULL;
}

bool plan_word(struct cursor *cursor, char *letter, struct argument *word)
{
    return take(cursor, letter, 1) && *letter && strchr("udxf", *letter) &&
           !take_argument(cursor, *letter, word);
}

/* Take a record. Returns NULL, or what is wrong. */
static const char *take_record(struct cursor *cursor, struct record *record)
{
    uint16_t code, count;
    const char *problem;
    if (!take(cursor, &code, sizeof code) || !take(cursor, &count, sizeof count))
        return "the plan ends within it";
    if (code >= STEPS || !forms[code].name)
        return "there is no such step";
    const char *signature = forms[code].signature;
    if (count != strlen(signature))
        return "the number of arguments is wrong";
    record->step = (enum step)code;
    for (size_t at = 0; at < count; at++)
        if ((problem = take_argument(cursor, signature[at], &record->arguments[at])))
            return problem;
    return NULL;
}

bool plan_next(struct cursor *cursor, struct record *record)
{
    return cursor->at < cursor->end && !take_record(cursor, record);
}

const char *plan_signature(enum step step) { return forms[step].signature; }

const struct argument *plan_find(const struct plan *plan, enum section section, enum step step)
{
    static struct record record;
    struct cursor cursor = plan->sections[section];
    while (plan_next(&cursor, &record))
        if (record.step == step)
            return record.arguments;
    return NULL;
}

const char *list_next(const struct argument *list, const char *string)
{
    const char *next = string ? string + strlen(string) + 1 : list->bytes;
    return next < list->bytes + list->length ? next : NULL;
}

size_t list_count(const struct argument *list)
{
    size_t count = 0;
    for (const char *one = NULL; (one = list_next(list, one));)
        count++;
    return count;
}

char **list_vector(const struct argument *list, size_t more)
{
    size_t count = 0;
    char **strings = calloc(list_count(list) + more + 1, sizeof *strings);
    for (const char *one = NULL; strings && (one = list_next(list, one));)
        strings[count++] = (char *)one;
    return strings;
}

int slot_descriptor(const struct plan *plan, const struct argument *slot)
{
    return plan->slots[slot->number] - 1;
}

void slot_fill(struct plan *plan, const struct argument *slot, int descriptor)
{
    plan->slots[slot->number] = descriptor + 1;
}

void plan_forget(struct plan *plan, enum section first, enum section last)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (unsigned section = first; section <= (unsigned)last; section++) {
        uintptr_t from = ((uintptr_t)plan->sections[section].at + page - 1) & ~(page - 1);
        uintptr_t to = (uintptr_t)plan->sections[section].end & ~(page - 1);
        if (from < to)
            (void)madvise((void *)from, to - from, MADV_DONTNEED);
        plan->sections[section] = (struct cursor){NULL, NULL};
    }
}

/* ---- checking ------------------------------------------------------------------------------- */

static const char *check_descriptor(struct plan *plan, const struct argument *slot, uint64_t number)
{
    if (number < FIRST_DESCRIPTOR || number > INT_MAX)
        return "it is no descriptor from 3 on";
    if (fcntl((int)number, F_GETFD) < 0)
        return "the descriptor is not open";
    slot_fill(plan, slot, (int)number);
    return NULL;
}

/* Check what a record says of this process, and of its place in the plan. */
static const char *check_record(struct plan *plan, int *section, const struct record *record)
{
    const struct argument *argument = record->arguments;
    if (record->step == STEP_SECTION) {
        if (argument[0].number >= SECTIONS || (int)argument[0].number <= *section)
            return "the sections are not in order";
        *section = (int)argument[0].number;
    } else if (*section < 0) {
        return "it comes before the first section";
    }
    if (record->step == STEP_CALL && argument[0].number >= CALLS)
        return "there is no such system call";
    return record->step == STEP_DESCRIPTOR
               ? check_descriptor(plan, &argument[0], argument[1].number)
               : NULL;
}

/* Check the header. Returns NULL, or what is wrong. */
static const char *check_header(struct cursor *cursor, size_t size)
{
    struct {
        char magic[sizeof MAGIC];
        uint32_t version, size;
    } header;
    if (!take(cursor, &header, sizeof header) || memcmp(header.magic, MAGIC, sizeof MAGIC))
        return "it does not begin as a plan";
    if (header.version != PLAN_VERSION)
        return "its version is another one";
    return header.size == size ? NULL : "its size is another one";
}

static int refuse(const char **refusal, const char *form, ...)
{
    static char line[200];
    va_list arguments;
    va_start(arguments, form);
    (void)vsnprintf(line, sizeof line, form, arguments);
    va_end(arguments);
    *refusal = line;
    return -1;
}

static int check_plan(struct plan *plan, const char **refusal)
{
    struct cursor cursor = {plan->bytes, plan->bytes + plan->size};
    const char *problem = check_header(&cursor, plan->size);
    int section = -1;
    if (problem)
        return refuse(refusal, "%s", problem);
    for (unsigned number = 1; cursor.at < cursor.end; number++) {
        struct record record;
        if ((problem = take_record(&cursor, &record)))
            return refuse(refusal, "record %u: %s", number, problem);
        if ((problem = check_record(plan, &section, &record)))
            return refuse(refusal, "record %u: %s: %s", number, forms[record.step].name, problem);
        if (record.step == STEP_SECTION)
            plan->sections[section].at = cursor.at;
        plan->sections[section].end = cursor.at;
    }
    return 0;
}

int plan_read(struct plan *plan, int from, const char **refusal)
{
    struct stat st;
    const size_t room = PLAN_LARGEST + 1;
    ssize_t count;
    if (from < FIRST_DESCRIPTOR || fstat(from, &st) < 0 ||
        !(S_ISREG(st.st_mode) || S_ISFIFO(st.st_mode)))
        return refuse(refusal, "descriptor %d holds none", from);
    /* A copy, since the file may change after it was checked. */
    plan->bytes = mmap(NULL, room, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (plan->bytes == MAP_FAILED)
        return refuse(refusal, "%s", strerror(errno));
    /* The writer of a file has left the offset at its end; that of a pipe has written all. */
    (void)lseek(from, 0, SEEK_SET);
    while (plan->size < room && (count = read(from, plan->bytes + plan->size, room - plan->size)))
        if (count > 0)
            plan->size += (size_t)count;
        else if (errno != EINTR)
            return refuse(refusal, "%s", strerror(errno));
    close(from);
    if (!plan->size || plan->size == room)
        return refuse(refusal, "it has %zu bytes", plan->size);
    return check_plan(plan, refusal);
}
