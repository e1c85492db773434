/* The paths shared with the host. */
#include "supervisor.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct bind {
    struct argument slot;
    const char *target;
    char *place; /* the real path that it is attached at */
    size_t depth;
    size_t order;
};

static size_t
depth_of(const char *path)
{
    size_t slashes = 0;
    for (; *path; path++)
        slashes += *path == '/';
    return slashes;
}

/* By depth, and as given where it is the same. */
static int
parents_first(const void *one, const void *other)
{
    const struct bind *first = one, *second = other;
    if (first->depth != second->depth)
        return first->depth < second->depth ? -1 : 1;
    return first->order < second->order ? -1 : 1;
}

/* Attach binds[at]. Two targets may be one path, by symbolic links. */
static int
attach(struct plan *plan, struct bind *binds, size_t at)
{
    char real[PATH_MAX], both[2 * PATH_MAX];
    if (real_path(binds[at].target, real) < 0)
        return fail("MOUNTPOINT", binds[at].target);
    for (size_t before = 0; before < at; before++) {
        if (!strcmp(binds[before].place, real)) {
            (void)snprintf(both, sizeof both, "%s\n%s", binds[before].target, binds[at].target);
            return fail_with("TWICE", EBUSY, both);
        }
    }
    if (!(binds[at].place = strdup(real)))
        return fail("PROCESS", "");
    int mount = slot_descriptor(plan, &binds[at].slot);
    slot_fill(plan, &binds[at].slot, -1);
    return mount_attach(mount, binds[at].target);
}

int
attach_binds(struct plan *plan)
{
    struct cursor cursor = plan->sections[SECTION_INIT];
    struct record record;
    struct bind *binds = NULL;
    size_t count = 0;
    int result = 0;
    while (plan_next(&cursor, &record)) {
        char real[PATH_MAX];
        if (record.step != STEP_BIND || slot_descriptor(plan, &record.arguments[0]) < 0)
            continue;
        const char *target = record.arguments[1].bytes;
        struct bind *more = realloc(binds, (count + 1) * sizeof *binds);
        if (!more || real_path(target, real) < 0) {
            result = fail("MOUNTPOINT", target);
            break;
        }
        binds = more;
        binds[count] = (struct bind){record.arguments[0], target, NULL, depth_of(real), count};
        count++;
    }
    if (result == 0 && count)
        qsort(binds, count, sizeof *binds, parents_first);
    for (size_t at = 0; result == 0 && at < count; at++)
        result = attach(plan, binds, at);
    for (size_t at = 0; at < count; at++)
        free(binds[at].place);
    free(binds);
    return result;
}
