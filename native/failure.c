/* The failure of a step, as a record: name, errno and subject, each with a NUL after it. */
#include "supervisor.h"

/* In the status pipe END follows in the place of the last NUL; no name holds a NUL. A name may
 * begin with a newline, so one NUL is not enough. */
static const char END[] = {'\0', '\0', '\n'};

static char record[LONGEST_RECORD + sizeof END];
static size_t used;

int fail_with(const char *name, int error, const char *subject)
{
    if (used)
        return -1;
    int count = snprintf(record, LONGEST_RECORD, "%s%c%d%c%s", name, '\0', error, '\0', subject);
    used = count < LONGEST_RECORD ? (size_t)count : LONGEST_RECORD - 1;
    return -1;
}

int fail(const char *name, const char *subject) { return fail_with(name, errno, subject); }

bool has_failed(void) { return used > 0; }

void failure_write(int status)
{
    (void)fail_with("UNFORESEEN", EIO, ""); /* unless another one is recorded */
    memcpy(record + used, END, sizeof END);
    (void)!write(status, record, used + sizeof END);
}

bool failure_read(int status)
{
    char more[sizeof record];
    ssize_t count = read(status, more, sizeof more);
    if (count < 0)
        return errno == EINTR || errno == EAGAIN;
    if (count > 0 && !used) { /* written in one piece */
        memcpy(record, more, (size_t)count);
        used = (size_t)count > sizeof END ? (size_t)count - sizeof END : 0;
        record[used] = '\0';
    }
    return count > 0;
}

bool failure_fields(const char *fields[3])
{
    const char *at = record, *end = record + used;
    for (int field = 0; field < 3; field++) {
        if (at > end)
            return false;
        fields[field] = at;
        at += strlen(at) + 1;
    }
    return used > 0;
}
