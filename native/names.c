/* The names of a directory, kept to answer without a system call for what is not in it.
 *
 * A name that goes keeps its position, with the place ABSENT: listings continue by positions. */
#include "names.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_ROOM = 16 };

void *grown(void *memory, size_t size)
{
    void *result = realloc(memory, size);
    if (result == NULL)
        abort();
    return result;
}

struct names *names_new(void)
{
    struct names *names = grown(NULL, sizeof *names);
    memset(names, 0, sizeof *names);
    return names;
}

void names_free(struct names *names)
{
    if (!names)
        return;
    free(names->all);
    free(names->text);
    free(names->slots);
    free(names);
}

/* The slot of a name, or the free one where it belongs. Requires: there is a free slot. */
static uint32_t *slot_of(const struct names *names, const char *text)
{
    uint64_t hash = 0xCBF29CE484222325ULL; /* FNV-1a */
    for (const char *at = text; *at; at++)
        hash = (hash ^ (unsigned char)*at) * 0x100000001B3ULL;
    for (size_t at = (size_t)(hash ^ hash >> 32);; at++) {
        uint32_t *slot = &names->slots[at & (names->slot_count - 1)];
        if (*slot == 0 || strcmp(names_text(names, *slot - 1), text) == 0)
            return slot;
    }
}

static void make_room(struct names *names, size_t length)
{
    if (names->used + length > names->text_room) {
        names->text_room = 2 * names->text_room + length;
        names->text = grown(names->text, names->text_room);
    }
    if (names->count < names->room)
        return;
    names->room = names->room ? 2 * names->room : FIRST_ROOM;
    names->all = grown(names->all, names->room * sizeof *names->all);
    names->slot_count = 2 * names->room;
    names->slots = grown(names->slots, names->slot_count * sizeof *names->slots);
    memset(names->slots, 0, names->slot_count * sizeof *names->slots);
    for (size_t at = 0; at < names->count; at++)
        *slot_of(names, names_text(names, at)) = (uint32_t)at + 1;
}

void names_put(struct names *names, const char *text, struct name name)
{
    size_t length = strlen(text) + 1;
    make_room(names, length);
    uint32_t *slot = slot_of(names, text);
    if (*slot == 0) {
        name.at = (uint32_t)names->used;
        memcpy(names->text + names->used, text, length);
        names->used += length;
        *slot = (uint32_t)++names->count;
    } else
        name.at = names->all[*slot - 1].at;
    names->all[*slot - 1] = name;
}

unsigned names_place(const struct names *names, const char *text)
{
    uint32_t slot = names->count ? *slot_of(names, text) : 0;
    return slot ? names->all[slot - 1].place : ABSENT;
}
