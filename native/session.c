/* Adapts the libfuse session that pyfuse3 makes: two symbols of libfuse, interposed in front of its
 * own.
 *
 * Requests are read by the data plane, after INIT, and changed where neither libfuse nor pyfuse3
 * passes on what they say:
 *
 * - The file handle of READDIR, READDIRPLUS and FSYNCDIR becomes the nodeid. It is 0, since OPENDIR
 *   is answered with ENOSYS once: the kernel then opens and closes directories without a request,
 *   and caches their content (fs/fuse/dir.c: no_opendir; Linux 5.1).
 * - READDIR, for which pyfuse3 has no handler, becomes READDIRPLUS, with the bit PLAIN_LISTING in
 *   its file handle.
 * - FUSE_HANDLE_KILLPRIV_V2: whether a WRITE clears set-ID bits travels as the bit CLEARS_SET_IDS
 *   of its file handle; whether a SETATTR does, as the bit PID_CLEARS_SET_IDS of its pid. A WRITE
 *   that does not come from the kernel's cache has the bit PAST_CACHE there.
 * (An OPEN may say so too, with FUSE_ATOMIC_O_TRUNC only.)
 * - FUSE_SETXATTR_EXT: whether setting an ACL clears the set-group-ID bit, of which only the kernel
 *   knows, travels as that bit of the pid of the SETXATTR. The request gets the short form, which
 * libfuse reads.
 *
 * READDIRPLUS: an entry may be a name with its inode number alone, of which the kernel makes no
 * dentry (fs/fuse/readdir.c: no nodeid). pyfuse3 has one number for nodeid and inode number, so the
 * generation NAME_ONLY marks such an entry. An inode number of 0 becomes one that readdir(3) does
 * not take for a deleted file's. An entry of the generation PLAIN_ENTRY is of the form for READDIR:
 * all entries of such a reply are.
 *
 * OPEN and CREATE: the reply of a file that the kernel reads and writes itself (FUSE_PASSTHROUGH)
 * has that file's number, which libfuse 3.14 does not know, and pyfuse3 passes from bit
 * BACKING_SHIFT of the file handle on.
 *
 * A process has one session, so its state is static. */
#include "native.h"

#include "plane.h"

#include <dlfcn.h>
#include <linux/fuse.h>
#include <stddef.h>

#ifndef FOPEN_PASSTHROUGH
#define FOPEN_PASSTHROUGH (1 << 7) /* Linux 6.9 */
#endif

static bool is_adapted, setxattr_is_extended;

/* A function of the loaded libfuse, not the one of the same name here. Returns NULL if there is
 * none. */
static void *libfuse_function(const char *name)
{
    /* Kept: a search for the other one takes dozens of system calls. */
    static void *library;
    if (!library && !(library = dlopen("libfuse3.so.4", RTLD_LAZY | RTLD_NOLOAD)))
        library = dlopen("libfuse3.so.3", RTLD_LAZY | RTLD_NOLOAD);
    return library ? dlsym(library, name) : NULL;
}

/* Declare `next`: the function of libfuse that one here stands in front of. */
#define NEXT(name)                                                                                 \
    static __typeof__(&name) next;                                                                 \
    next = next ? next : libfuse_function(#name)

/* Such a function: libfuse and pyfuse3 find it first. */
#define INTERPOSED __attribute__((visibility("default")))

size_t setxattr_bytes(void)
{
    return setxattr_is_extended ? sizeof(struct fuse_setxattr_in) : FUSE_COMPAT_SETXATTR_IN_SIZE;
}

/* Change a request of `size` bytes, which is well formed. */
static void adapt(struct fuse_in_header *header, size_t size)
{
    void *in = header + 1;
    size_t left = size - sizeof(*header);

    if (header->opcode == FUSE_READDIRPLUS || header->opcode == FUSE_FSYNCDIR)
        memcpy(in, &header->nodeid, sizeof(header->nodeid));
    else if (header->opcode == FUSE_READDIR) {
        ((struct fuse_read_in *)in)->fh = header->nodeid | PLAIN_LISTING;
        header->opcode = FUSE_READDIRPLUS;
    } else if (header->opcode == FUSE_WRITE) {
        struct fuse_write_in *write = in;
        if (write->write_flags & FUSE_WRITE_KILL_SUIDGID)
            write->fh |= CLEARS_SET_IDS;
        if (!(write->write_flags & FUSE_WRITE_CACHE))
            write->fh |= PAST_CACHE;
    } else if (header->opcode == FUSE_SETATTR) {
        if (((struct fuse_setattr_in *)in)->valid & FATTR_KILL_SUIDGID)
            header->pid |= PID_CLEARS_SET_IDS;
    } else if (header->opcode == FUSE_SETXATTR) {
        const size_t shorter = setxattr_is_extended ? FUSE_COMPAT_SETXATTR_IN_SIZE : 0;
        uint32_t flags = ((struct fuse_setxattr_in *)in)->setxattr_flags;
        if (shorter && flags & FUSE_SETXATTR_ACL_KILL_SGID)
            header->pid |= PID_CLEARS_SET_IDS;
        memmove((char *)in + shorter, (char *)in + 2 * shorter, left - 2 * shorter);
        header->len -= (uint32_t)shorter;
    }
}

/* A non-blocking descriptor answers EAGAIN where the request is gone before it is read. pyfuse3
 * takes EAGAIN for a failure, and waits again after EINTR. */
INTERPOSED int fuse_session_receive_buf(struct fuse_session *se, struct fuse_buf *buffer)
{
    int result;
    is_adapted = true;
    if (plane_receive(buffer, &result)) {
        if (result > 0)
            adapt(buffer->mem, (size_t)result);
        return result;
    }
    NEXT(fuse_session_receive_buf);
    result = next == NULL ? -ENOSYS : next(se, buffer);
    return result == -EAGAIN ? -EINTR : result;
}

static size_t add_plain(fuse_req_t request, char *buffer, size_t size, const char *name,
                        const struct stat *st, off_t offset)
{
    NEXT(fuse_add_direntry);
    return next(request, buffer, size, name, st, offset);
}

INTERPOSED size_t fuse_add_direntry_plus(fuse_req_t request, char *buffer, size_t size,
                                         const char *name, const struct fuse_entry_param *entry,
                                         off_t offset)
{
    NEXT(fuse_add_direntry_plus);
    struct fuse_entry_param named = *entry;
    if (entry->generation == NAME_ONLY || entry->generation == PLAIN_ENTRY) {
        named.ino = named.generation = 0;
        if (named.attr.st_ino == 0)
            named.attr.st_ino = UNKNOWN_INODE;
    }
    if (entry->generation == PLAIN_ENTRY)
        return add_plain(request, buffer, size, name, &named.attr, offset);
    return next(request, buffer, size, name, &named, offset);
}

static int reply(fuse_req_t request, const void *data, size_t size)
{
    NEXT(fuse_reply_buf);
    return next(request, data, size);
}

/* Whether a file handle comes with the number of a file below. Fills in what the kernel gets. */
static bool splits_backing(const struct fuse_file_info *info, struct fuse_open_out *to)
{
    *to = (struct fuse_open_out){
        .fh = info->fh & ((1UL << BACKING_SHIFT) - 1),
        .open_flags = FOPEN_PASSTHROUGH,
        .padding = (uint32_t)((info->fh & ~(uint64_t)BACKED) >> BACKING_SHIFT), /* backing_id */
    };
    return info->fh & BACKED;
}

INTERPOSED int fuse_reply_open(fuse_req_t request, const struct fuse_file_info *info)
{
    NEXT(fuse_reply_open);
    struct fuse_open_out opened;
    if (splits_backing(info, &opened))
        return reply(request, &opened, sizeof(opened));
    return next(request, info);
}

INTERPOSED int fuse_reply_create(fuse_req_t request, const struct fuse_entry_param *entry,
                                 const struct fuse_file_info *info)
{
    NEXT(fuse_reply_create);
    struct {
        struct fuse_entry_out entry;
        struct fuse_open_out opened;
    } made;
    if (splits_backing(info, &made.opened)) {
        plane_fill_entry(&made.entry, entry->ino, entry->generation, &entry->attr);
        return reply(request, &made, sizeof(made));
    }
    return next(request, entry, info);
}

PyObject *py_adapt_session(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    Dl_info own;
    /* Symbols here then precede those of libraries loaded later. */
    if (dladdr(&is_adapted, &own) == 0 || own.dli_fname == NULL ||
        dlopen(own.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL) == NULL) {
        PyErr_SetString(PyExc_OSError, "the extension cannot be found among the libraries");
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *py_is_session_adapted(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    return PyBool_FromLong(is_adapted);
}

PyObject *py_enable_setxattr_ext(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    setxattr_is_extended = true;
    Py_RETURN_NONE;
}
