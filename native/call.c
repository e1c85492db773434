/* What Python decides, and no more than that: system calls that a plan names, and descriptors that
 * it gives to the monitor. */
#include "supervisor.h"

#include <linux/filter.h>

/* The arguments of STEP_CALL. */
enum { NUMBER, SLOT, BECOMES, IGNORED, FAILURE, SUBJECT, WORDS };

/* Whether `ignored` has the errno: one in each 16 bits, or all of them. */
static bool is_ignored(uint64_t ignored, int error)
{
    if (ignored == UINT64_MAX)
        return true;
    for (; ignored; ignored >>= 16)
        if ((int)(ignored & 0xffff) == error)
            return true;
    return false;
}

int call(struct plan *plan, const struct argument *arguments)
{
#define CALL(name) SYS_##name,
    static const long numbers[] = {PLAN_CALLS(CALL)};
#undef CALL
    const struct argument *slot = &arguments[SLOT];
    struct cursor cursor = {arguments[WORDS].bytes,
                            arguments[WORDS].bytes + arguments[WORDS].length};
    struct argument word;
    struct sock_fprog filter;
    long words[MOST_WORDS] = {0};
    char letter;
    for (size_t at = 0; plan_word(&cursor, &letter, &word); at++) {
        words[at] = letter == 'x' ? (long)word.bytes : (long)word.number;
        if (letter == 'f') {
            filter.len = (unsigned short)(word.length / sizeof *filter.filter);
            filter.filter = (struct sock_filter *)(uintptr_t)word.bytes;
            words[at] = (long)&filter;
        }
        if (letter == 'd' && (words[at] = slot_descriptor(plan, &word)) < 0)
            return 0;
    }
    long result = syscall(numbers[arguments[NUMBER].number], words[0], words[1], words[2], words[3],
                          words[4], words[5]);
    if (result < 0 && !is_ignored(arguments[IGNORED].number, errno))
        return fail(arguments[FAILURE].bytes, arguments[SUBJECT].bytes);
    if (result < 0 && slot_descriptor(plan, slot) >= 0)
        close(slot_descriptor(plan, slot));
    if (result < 0 || arguments[BECOMES].number == PLAN_EMPTIED)
        slot_fill(plan, slot, -1);
    else if (arguments[BECOMES].number == PLAN_FILLED)
        slot_fill(plan, slot, (int)result);
    return 0;
}

int offer(struct plan *plan, const struct argument *arguments, int channel)
{
    int offered[MOST_PASSED];
    size_t count = 0;
    while (count < MOST_PASSED &&
           (offered[count] = slot_descriptor(plan, &arguments[2 + count])) >= 0)
        count++;
    bool sent = message_send(channel, (char)arguments[0].number, offered, count) == 0;
    return sent ? 0 : fail(arguments[1].bytes, "");
}
