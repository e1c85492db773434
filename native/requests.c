/* Checks requests before anything else reads them: neither the data plane nor libfuse (3.14:
 * fuse_lowlevel.c, do_setxattr and so on) compares what they say with their size.
 *
 * The kernel's are always well formed. The check keeps what is not from being more than an error.
 */
#include "requests.h"

#include "inode.h"
#include "plane.h"

#include <stdint.h>
#include <string.h>
#include <sys/xattr.h>

/* What follows the header: `fixed` bytes, the names of entries, and a string of any content. An
 * opcode without a form has nothing that is read. */
static const struct form {
    size_t fixed;
    unsigned names;
    bool text;
} forms[] = {
    [FUSE_LOOKUP] = {0, 1, false},
    [FUSE_FORGET] = {sizeof(struct fuse_forget_in), 0, false},
    [FUSE_GETATTR] = {sizeof(struct fuse_getattr_in), 0, false},
    [FUSE_SETATTR] = {sizeof(struct fuse_setattr_in), 0, false},
    [FUSE_SYMLINK] = {0, 1, true},
    [FUSE_MKNOD] = {sizeof(struct fuse_mknod_in), 1, false},
    [FUSE_MKDIR] = {sizeof(struct fuse_mkdir_in), 1, false},
    [FUSE_UNLINK] = {0, 1, false},
    [FUSE_RMDIR] = {0, 1, false},
    [FUSE_RENAME] = {sizeof(struct fuse_rename_in), 2, false},
    [FUSE_LINK] = {sizeof(struct fuse_link_in), 1, false},
    [FUSE_OPEN] = {sizeof(struct fuse_open_in), 0, false},
    [FUSE_READ] = {sizeof(struct fuse_read_in), 0, false},
    [FUSE_WRITE] = {sizeof(struct fuse_write_in), 0, false},
    [FUSE_RELEASE] = {sizeof(struct fuse_release_in), 0, false},
    [FUSE_FSYNC] = {sizeof(struct fuse_fsync_in), 0, false},
    [FUSE_SETXATTR] = {0, 0, false}, /* setxattr_bytes */
    [FUSE_GETXATTR] = {sizeof(struct fuse_getxattr_in), 0, true},
    [FUSE_LISTXATTR] = {sizeof(struct fuse_getxattr_in), 0, false},
    [FUSE_REMOVEXATTR] = {0, 0, true},
    [FUSE_FLUSH] = {sizeof(struct fuse_flush_in), 0, false},
    [FUSE_OPENDIR] = {sizeof(struct fuse_open_in), 0, false},
    [FUSE_READDIR] = {sizeof(struct fuse_read_in), 0, false},
    [FUSE_RELEASEDIR] = {sizeof(struct fuse_release_in), 0, false},
    [FUSE_FSYNCDIR] = {sizeof(struct fuse_fsync_in), 0, false},
    [FUSE_ACCESS] = {sizeof(struct fuse_access_in), 0, false},
    [FUSE_CREATE] = {sizeof(struct fuse_create_in), 1, false},
    [FUSE_INTERRUPT] = {sizeof(struct fuse_interrupt_in), 0, false},
    [FUSE_BATCH_FORGET] = {sizeof(struct fuse_batch_forget_in), 0, false},
    [FUSE_READDIRPLUS] = {sizeof(struct fuse_read_in), 0, false},
    [FUSE_RENAME2] = {sizeof(struct fuse_rename2_in), 2, false},
};

/* The end of the string at `at`, its NUL included; NULL if it has none before `end`. */
static const char *end_of(const char *at, const char *end)
{
    const char *last = memchr(at, '\0', (size_t)(end - at));
    return last ? last + 1 : NULL;
}

static bool may_be_entry(const char *name)
{
    return *name && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* Whether the fixed part of a request has values that mean something, and its data are there, from
 * `at` on. No reply is longer than `most`. */
static bool is_possible(uint32_t opcode, const void *in, size_t left, size_t most)
{
    switch (opcode) {
    case FUSE_READ:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
        return ((const struct fuse_read_in *)in)->size <= most &&
               ((const struct fuse_read_in *)in)->offset <= INT64_MAX;
    case FUSE_WRITE:
        return ((const struct fuse_write_in *)in)->size <= left &&
               ((const struct fuse_write_in *)in)->offset <= INT64_MAX;
    case FUSE_BATCH_FORGET:
        return ((const struct fuse_batch_forget_in *)in)->count <=
               left / sizeof(struct fuse_forget_one);
    case FUSE_SETXATTR: {
        const struct fuse_setxattr_in *wanted = in; /* of the longer form only these two are read */
        return wanted->size <= left && !(wanted->flags & ~(uint32_t)(XATTR_CREATE | XATTR_REPLACE));
    }
    case FUSE_SETATTR: {
        const struct fuse_setattr_in *wanted = in;
        return wanted->atimensec < SECOND && wanted->mtimensec < SECOND &&
               wanted->ctimensec < SECOND;
    }
    default:
        return true;
    }
}

bool is_well_formed(const struct fuse_in_header *header, size_t size, size_t most)
{
    const uint32_t opcode = header->opcode;
    const char *in = (const char *)(header + 1), *end = (const char *)header + size, *at = in;
    if (header->len != size)
        return false;
    struct form form = opcode < sizeof forms / sizeof *forms ? forms[opcode] : (struct form){0};
    if (opcode == FUSE_SETXATTR)
        form = (struct form){.fixed = setxattr_bytes(), .text = true};
    if ((size_t)(end - in) < form.fixed)
        return false;
    at += form.fixed;
    for (unsigned names = form.names; names > 0; names--) {
        const char *name = at;
        at = end_of(name, end);
        if (!at || !may_be_entry(name))
            return false;
    }
    at = form.text ? end_of(at, end) : at;
    return at && is_possible(opcode, in, (size_t)(end - at), most);
}

bool wants_reply(const struct fuse_in_header *header)
{
    return header->opcode != FUSE_FORGET && header->opcode != FUSE_BATCH_FORGET &&
           header->opcode != FUSE_INTERRUPT && header->opcode != FUSE_NOTIFY_REPLY;
}
