/* The names of a directory, each with the place where it is found. See names.c. */
#ifndef OVERLAYKIT_NAMES_H
#define OVERLAYKIT_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    ABSENT = 255,          /* place of what is not there */
    PLACE_OF_PYTHON = 254, /* of what only Python finds */
    MOST_PLACES = 64,
};

/* Whether others may change a lower; and whether it is in memory, so that what they have mapped is
 * never written back (overlay/liveness.py). */
enum liveness { UNCHANGING, LIVE, LIVE_IN_MEMORY };

struct name {
    uint64_t inode; /* its number for listings; 0: unknown */
    uint32_t at;    /* of its text */
    uint8_t place;
    uint8_t type; /* DT_REG and so on */
};

struct names {
    struct name *all; /* in the order they came, which is that of listings */
    size_t count, room;
    char *text;
    size_t used, text_room;
    uint32_t *slots; /* a hash table: 1 + the index of a name, or 0; their number is a power of 2 */
    size_t slot_count;
};

/* As realloc(3); it does not fail: no request could be answered any more. */
void *grown(void *memory, size_t size);

struct names *names_new(void);
void names_free(struct names *names);

/* Set the place of a name, which is added if it is new. */
void names_put(struct names *names, const char *text, struct name name);

/* The place of a name; ABSENT if there is no such name. */
unsigned names_place(const struct names *names, const char *text);

static inline const char *names_text(const struct names *names, size_t index)
{
    return names->text + names->all[index].at;
}

#endif
