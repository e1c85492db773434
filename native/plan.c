/* Read and check a plan. */
#include "plan.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOST_ID (UINT32_MAX - 1ULL) /* of a user or group: -1 is none */
#define MAGIC "overlaykit plan"

/* Letters of signatures; all others are lists. */
#define INTEGERS "unbaik"
#define SLOTS "dmc"
#define STRINGS "s/heF"

enum {
    FIRST_DESCRIPTOR = 3,  /* after the standard ones */
    LONGEST_HOSTNAME = 64, /* uname(2) */
    LONGEST_FILE_NAME = 60,
    LONGEST_FAILURE = 32, /* the name of a step that can fail */
    NEW_TIME = 0x80,      /* CLONE_NEWTIME of linux/sched.h */
    NAMESPACES = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID |
        CLONE_NEWNET | CLONE_NEWCGROUP | NEW_TIME,
};

/* Bits of `struct form.sections`. */
enum {
    IN_PLAN = 1 << SECTION_PLAN,
    IN_MONITOR = 1 << SECTION_MONITOR,
    IN_INIT = 1 << SECTION_INIT,
    IN_COMMAND = 1 << SECTION_COMMAND,
    IN_END = 1 << SECTION_END,
    EVERYWHERE = (1 << SECTIONS) - 1,
};

/* How often a step may occur. */
enum often { MANY, ONCE };

#define NO_FLAGS "there are no such flags"

struct form {
    const char *name, *signature;
    unsigned sections;
    enum often often;
    uint64_t most;       /* of the argument with the letter n */
    const char *problem; /* if it exceeds that */
};

#define STEP(code, name, signature, sections, often)                                               \
    STEP_UP_TO(code, name, signature, sections, often, 0, NULL)
#define STEP_UP_TO(code, ...) [STEP_##code] = {__VA_ARGS__},

static const struct form forms[STEPS] = {
#include "steps.h"
};

static const char *const section_names[SECTIONS] = {"plan", "monitor", "init", "command", "end"};

/* What is known of a slot while the plan is checked. */
enum filling {
    EMPTY,
    INHERITED,
    PERHAPS, /* by an optional step */
    MADE,
    CONSUMED, /* by a step that takes the descriptor over */
};

struct check {
    struct plan *plan;
    int section; /* -1 before the first one */
    unsigned number;
    uint64_t seen[STEPS]; /* how often */
    bool own_processes;   /* CLONE_NEWPID, without which init would be one of the host's */
    uint8_t slots[MOST_SLOTS];
    const char *problem;
};

/* ---- reading -------------------------------------------------------------------------------- */

static bool
take(struct cursor *cursor, void *to, size_t length)
{
    if ((size_t)(cursor->end - cursor->at) < length)
        return false;
    memcpy(to, cursor->at, length);
    cursor->at += length;
    return true;
}

/* Take an argument of the type `letter`. Returns NULL, or what is wrong. */
static const char *
take_argument(struct cursor *cursor, char letter, struct argument *argument)
{
    uint32_t length, slot;
    if (!take(cursor, &length, sizeof length) || length > (size_t)(cursor->end - cursor->at))
        return "an argument is longer than the plan";
    *argument = (struct argument){.bytes = cursor->at, .length = length};
    cursor->at += length;
    if (strchr(INTEGERS, letter)) {
        if (length != sizeof argument->number)
            return "an integer has not 8 bytes";
        memcpy(&argument->number, argument->bytes, length);
    } else if (strchr(SLOTS, letter)) {
        if (length != sizeof slot)
            return "a slot has not 4 bytes";
        memcpy(&slot, argument->bytes, length);
        argument->number = slot;
        return slot < MOST_SLOTS ? NULL : "there is no such slot";
    } else if (strchr(STRINGS, letter)) {
        if (!length || memchr(argument->bytes, '\0', length) != argument->bytes + length - 1)
            return "a string does not end with its only NUL";
    } else if (length && argument->bytes[length - 1]) {
        return "a list does not end with NUL";
    }
    return NULL;
}

/* Take a record. Returns NULL, or what is wrong. */
static const char *
take_record(struct cursor *cursor, struct record *record)
{
    uint16_t code, count;
    const char *problem;
    if (!take(cursor, &code, sizeof code) || !take(cursor, &count, sizeof count))
        return "the plan ends within it";
    if (code == 0 || code >= STEPS)
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

bool
plan_next(struct cursor *cursor, struct record *record)
{
    return cursor->at < cursor->end && !take_record(cursor, record);
}

const char *
plan_signature(enum step step)
{
    return forms[step].signature;
}

bool
plan_find(const struct plan *plan, enum section section, enum step step, struct record *record)
{
    struct cursor cursor = plan->sections[section];
    while (plan_next(&cursor, record))
        if (record->step == step)
            return true;
    return false;
}

const char *
list_next(const struct argument *list, const char *string)
{
    const char *next = string ? string + strlen(string) + 1 : list->bytes;
    return next < list->bytes + list->length ? next : NULL;
}

size_t
list_count(const struct argument *list)
{
    size_t count = 0;
    for (const char *one = NULL; (one = list_next(list, one));)
        count++;
    return count;
}

char **
list_vector(const struct argument *list, size_t more)
{
    size_t count = 0;
    char **strings = calloc(list_count(list) + more + 1, sizeof *strings);
    for (const char *one = NULL; strings && (one = list_next(list, one));)
        strings[count++] = (char *)one;
    return strings;
}

int
slot_descriptor(const struct plan *plan, const struct argument *slot)
{
    return plan->slots[slot->number] - 1;
}

void
slot_fill(struct plan *plan, const struct argument *slot, int descriptor)
{
    plan->slots[slot->number] = descriptor + 1;
}

void
slot_close(struct plan *plan, const struct argument *slot)
{
    close(slot_descriptor(plan, slot));
    slot_fill(plan, slot, -1);
}

void
plan_forget(struct plan *plan, enum section first, enum section last)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (unsigned section = first; section <= (unsigned)last; section++) {
        uintptr_t from = (uintptr_t)plan->sections[section].at;
        uintptr_t to = (uintptr_t)plan->sections[section].end & ~(page - 1);
        from = (from + page - 1) & ~(page - 1);
        if (from < to)
            (void)madvise((void *)from, to - from, MADV_DONTNEED);
        plan->sections[section] = (struct cursor){NULL, NULL};
    }
}

/* ---- checking ------------------------------------------------------------------------------- */

/* The argument with the letter n, 0 without one. */
static uint64_t
flags_of(const struct record *record)
{
    const char *signature = forms[record->step].signature, *at = strchr(signature, 'n');
    return at ? record->arguments[at - signature].number : 0;
}

static const char *
check_filled_slot(uint8_t *slot, const struct record *record)
{
    uint64_t flags = flags_of(record);
    bool alternative = flags & MOUNT_UNLESS_FILLED;
    if (*slot != (alternative ? PERHAPS : EMPTY))
        return alternative ? "the slot is no alternative's" : "the slot is filled already";
    if (record->step == STEP_DESCRIPTOR)
        *slot = INHERITED;
    else
        *slot = flags & ~(uint64_t)MOUNT_UNLESS_FILLED ? PERHAPS : MADE;
    return NULL;
}

static const char *
check_used_slot(const struct check *check, uint8_t *slot, const struct record *record)
{
    if (*slot == EMPTY || *slot == CONSUMED)
        return "the slot is not filled";
    if (*slot == PERHAPS && record->step == STEP_ROOT)
        return "the slot may be empty";
    if (*slot != INHERITED && check->section != SECTION_INIT)
        return "the slot holds no inherited descriptor";
    return NULL;
}

static const char *
check_slots(struct check *check, const struct record *record)
{
    const char *signature = forms[record->step].signature, *problem;
    for (size_t at = 0; signature[at]; at++) {
        if (!strchr(SLOTS, signature[at]))
            continue;
        uint8_t *slot = &check->slots[record->arguments[at].number];
        problem = signature[at] == 'm' ? check_filled_slot(slot, record)
                                       : check_used_slot(check, slot, record);
        if (problem)
            return problem;
        if (signature[at] == 'c')
            *slot = CONSUMED;
    }
    return NULL;
}

static const char *
check_descriptor(struct check *check, const struct argument *slot, uint64_t number)
{
    if (number < FIRST_DESCRIPTOR || number > INT_MAX)
        return "it is no descriptor from 3 on";
    if (fcntl((int)number, F_GETFD) < 0)
        return "the descriptor is not open";
    for (size_t at = 0; at < MOST_SLOTS; at++)
        if (check->plan->slots[at] == (int)number + 1)
            return "the descriptor has two slots";
    slot_fill(check->plan, slot, (int)number);
    return NULL;
}

/* A failure's name is part of a record that ends where the name does. */
static bool
is_failure_name(const char *name)
{
    size_t length = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_");
    return length && length <= LONGEST_FAILURE && !name[length];
}

static bool
is_plain_name(const char *name)
{
    return *name && !strchr(name, '/') && strcmp(name, ".") && strcmp(name, "..");
}

static bool
is_propagation(uint64_t number)
{
    return number == 0 || number == MS_PRIVATE || number == MS_SLAVE || number == MS_SHARED;
}

/* Check the value of an argument as its letter says. */
static const char *
check_argument(const struct form *form, char letter, const struct argument *argument)
{
    uint64_t number = argument->number;
    switch (letter) {
    case 'n':
        return number <= form->most ? NULL : form->problem;
    case 'b':
        return number <= 1 ? NULL : NO_FLAGS;
    case 'a':
        return number <= UINT32_MAX ? NULL : "there are no such attributes";
    case 'i':
        return number <= MOST_ID ? NULL : "it is no user or group";
    case 'k':
        return number & ~(uint64_t)NAMESPACES ? "there are no such namespaces" : NULL;
    case 'h':
        return argument->length - 1 <= LONGEST_HOSTNAME ? NULL : "the name is too long";
    case 'F':
        return is_failure_name(argument->bytes) ? NULL : "the name of the failure is none";
    case 'e':
        return is_plain_name(argument->bytes) ? NULL : "the name is none";
    case 'v':
        return argument->length ? NULL : "there is no program";
    case 'o':
        return list_count(argument) % 2 ? "an option has no value" : NULL;
    case '/':
    case 'P':
        for (const char *one = NULL; (one = list_next(argument, one));)
            if (*one != '/')
                return "a path is not absolute";
        return NULL;
    default:
        return NULL;
    }
}

static const char *
check_filter(const struct check *check, const struct argument *slot)
{
    struct stat st;
    if (fstat(slot_descriptor(check->plan, slot), &st) < 0 || !S_ISREG(st.st_mode))
        return "the filter is no file";
    if (st.st_size <= 0 || st.st_size % FILTER_INSTRUCTION_BYTES)
        return "the filter is no sequence of instructions";
    if (st.st_size / FILTER_INSTRUCTION_BYTES > FILTER_MOST_INSTRUCTIONS)
        return "the filter has too many instructions";
    return NULL;
}

static const char *
check_section(struct check *check, uint64_t number)
{
    if (number >= SECTIONS)
        return "there is no such section";
    if ((int)number <= check->section)
        return "the sections are not in order";
    if (check->section < 0 && number != SECTION_PLAN)
        return "the plan does not begin with the section of the plan";
    check->section = (int)number;
    return NULL;
}

/* Check what the letters do not say. */
static const char *
check_step(struct check *check, const struct record *record)
{
    const struct argument *argument = record->arguments;
    uint64_t number = argument[0].number;
    switch (record->step) {
    case STEP_SECTION:
        return check_section(check, number);
    case STEP_DESCRIPTOR:
        return check_descriptor(check, &argument[0], argument[1].number);
    case STEP_CONNECT:
        return check->seen[STEP_HELPER] ? NULL : "there is no helper";
    case STEP_SETNS:
        check->own_processes |=
            check->section == SECTION_MONITOR && argument[1].number & CLONE_NEWPID;
        return NULL;
    case STEP_UNSHARE:
        check->own_processes |= check->section == SECTION_MONITOR && number & CLONE_NEWPID;
        return NULL;
    case STEP_PUBLISH:
        return argument[1].number ? NULL : "it is no port";
    case STEP_CLONE:
        return is_propagation(argument[4].number) ? NULL : "there is no such propagation";
    case STEP_BIND:
        return check->seen[STEP_ATTACH_BINDS] ? "it comes after attach_binds" : NULL;
    case STEP_PTY:
        return check->seen[STEP_TERMINAL] ? NULL : "there is no terminal";
    case STEP_SESSION:
        return number && !check->seen[STEP_PTY] ? "there is no terminal" : NULL;
    case STEP_LOG:
        if (argument[3].length - 1 > LONGEST_FILE_NAME)
            return "the name is none";
        return argument[4].number ? NULL : "there is no limit";
    case STEP_RECORD_STATUS:
        return argument[1].length - 1 <= LONGEST_FILE_NAME ? NULL : "the name is none";
    case STEP_LIMIT:
        return argument[1].number <= argument[2].number ? NULL : "it is above the hard limit";
    case STEP_GROUP:
        return check->seen[STEP_GROUP] > NGROUPS_MAX ? "there are too many groups" : NULL;
    default:
        return NULL;
    }
}

static const char *
check_record(struct check *check, const struct record *record)
{
    const struct form *form = &forms[record->step];
    const char *problem;
    if (record->step != STEP_SECTION &&
        (check->section < 0 || !(form->sections & 1U << check->section)))
        return "the step has no place in this section";
    if (record->step != STEP_SECTION && check->section == SECTION_COMMAND && check->seen[STEP_EXEC])
        return "it comes after exec";
    if (check->seen[record->step]++ && form->often == ONCE)
        return "the step occurs twice";
    for (size_t at = 0; form->signature[at]; at++)
        if ((problem = check_argument(form, form->signature[at], &record->arguments[at])))
            return problem;
    if ((problem = check_step(check, record)) || (problem = check_slots(check, record)))
        return problem;
    return record->step == STEP_SECCOMP ? check_filter(check, &record->arguments[0]) : NULL;
}

/* Check what no record shows alone. */
static const char *
check_whole(const struct check *check)
{
    if (!check->seen[STEP_EXEC])
        return "there is no command";
    if (!check->seen[STEP_REPORT] == !check->seen[STEP_FRONT])
        return "it has neither report nor front, or both";
    if (check->seen[STEP_TERMINAL] && !(check->seen[STEP_FRONT] && check->seen[STEP_PTY]))
        return "its terminal has no front or no pty";
    if (check->seen[STEP_BIND] && !check->seen[STEP_ATTACH_BINDS])
        return "it attaches no binds";
    if (!check->own_processes)
        return "it makes and joins no PID namespace";
    return NULL;
}

/* Check the header. Returns NULL, or what is wrong. */
static const char *
check_header(struct cursor *cursor, size_t size)
{
    char magic[sizeof MAGIC];
    uint32_t version, said;
    if (!take(cursor, magic, sizeof magic) || memcmp(magic, MAGIC, sizeof magic))
        return "it does not begin as a plan";
    if (!take(cursor, &version, sizeof version) || version != PLAN_VERSION)
        return "its version is another one";
    if (!take(cursor, &said, sizeof said) || said != size)
        return "its size is another one";
    return NULL;
}

static int
refuse(const char **refusal, const char *form, ...)
{
    static char line[200];
    va_list arguments;
    va_start(arguments, form);
    (void)vsnprintf(line, sizeof line, form, arguments);
    va_end(arguments);
    *refusal = line;
    return -1;
}

static int
check_plan(struct plan *plan, const char **refusal)
{
    static struct check check;
    struct cursor cursor = {plan->bytes, plan->bytes + plan->size};
    const char *problem = check_header(&cursor, plan->size);
    if (problem)
        return refuse(refusal, "%s", problem);
    check = (struct check){.plan = plan, .section = -1};
    while (cursor.at < cursor.end) {
        struct record record;
        check.number++;
        if ((problem = take_record(&cursor, &record)))
            return refuse(refusal, "record %u: %s", check.number, problem);
        if ((problem = check_record(&check, &record)))
            return refuse(refusal, "record %u: %s: %s", check.number, forms[record.step].name,
                          problem);
        if (record.step == STEP_SECTION)
            plan->sections[check.section].at = cursor.at;
        plan->sections[check.section].end = cursor.at;
    }
    if ((problem = check_whole(&check)))
        return refuse(refusal, "%s", problem);
    return 0;
}

int
plan_read(struct plan *plan, int from, const char **refusal)
{
    struct stat st;
    int waiting = 0;
    if (from < FIRST_DESCRIPTOR || fstat(from, &st) < 0 ||
        !(S_ISREG(st.st_mode) || S_ISFIFO(st.st_mode)))
        return refuse(refusal, "descriptor %d holds none", from);
    /* A pipe has no limit on the size of files. Its writer has written all. */
    bool piped = S_ISFIFO(st.st_mode);
    if (piped && ioctl(from, FIONREAD, &waiting) < 0)
        return refuse(refusal, "%s", strerror(errno));
    long long size = piped ? waiting : (long long)st.st_size;
    if (size <= 0 || size > PLAN_MOST_BYTES)
        return refuse(refusal, "it has %lld bytes", size);
    plan->size = (size_t)size;
    /* A copy, since the file may change after it was checked. */
    plan->bytes =
        mmap(NULL, plan->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (plan->bytes == MAP_FAILED)
        return refuse(refusal, "%s", strerror(errno));
    for (size_t got = 0; got < plan->size;) {
        size_t left = plan->size - got;
        ssize_t count = piped ? read(from, plan->bytes + got, left)
                              : pread(from, plan->bytes + got, left, (off_t)got);
        if (count <= 0)
            return refuse(refusal, "%s", count ? strerror(errno) : "it ends early");
        got += (size_t)count;
    }
    close(from);
    return check_plan(plan, refusal);
}

/* ---- the table ------------------------------------------------------------------------------ */

void
plan_print_steps(void)
{
    for (int code = 1; code < STEPS; code++) {
        const struct form *form = &forms[code];
        const char *separator = " ";
        printf("%d %s %s", code, form->name, *form->signature ? form->signature : "-");
        for (int section = 0; section < SECTIONS; section++) {
            if (form->sections & 1U << section) {
                printf("%s%s", separator, section_names[section]);
                separator = ",";
            }
        }
        putchar('\n');
    }
}
