/* Adapts the libfuse session that pyfuse3 makes: symbols of libfuse, interposed in front of its
 * own.
 *
 * INIT is answered here: pyfuse3 asks for few features of the kernel. libfuse gets it all the same,
 * and the kernel refuses its reply to what is answered (ENOENT).
 *
 * Requests are read by the data plane, and changed where neither libfuse nor pyfuse3 passes on what
 * they say:
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
 * LOOKUP, GETATTR and READDIRPLUS: a file whose inode number is another one than its nodeid has it
 * in st_rdev, unless it is a device.
 *
 * OPEN and CREATE: the reply of a file that the kernel reads and writes itself (FUSE_PASSTHROUGH)
 * has that file's number, which libfuse 3.14 does not know, and pyfuse3 passes from bit
 * BACKING_SHIFT of the file handle on.
 *
 * A process has one session, so its state is static. */
#include "native.h"

#include "plane.h"

#include <dlfcn.h>
#include "protocol.h"
#include <stddef.h>

/* What INIT asks for, of what the kernel offers. Not among it:
 * - FUSE_ATOMIC_O_TRUNC: the kernel truncates its cache once more after such an open.
 * - FUSE_ASYNC_DIO: the kernel then keeps pages that were read during the write
 *   (generic_file_direct_write drops them after a synchronous write only). */
#define WANTED                                                                                     \
    (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_MAX_PAGES | FUSE_AUTO_INVAL_DATA |                   \
     FUSE_DO_READDIRPLUS | FUSE_CACHE_SYMLINKS |                                                   \
     FUSE_DONT_MASK |          /* a default ACL replaces the umask (acl(5)) */                     \
     FUSE_READDIRPLUS_AUTO |   /* names only, except where attributes are of use */                \
     FUSE_WRITEBACK_CACHE |    /* excluded by passthrough */                                       \
     FUSE_HANDLE_KILLPRIV_V2 | /* no question for a capability before each write */                \
     FUSE_SETXATTR_EXT |       /* says whether an ACL clears the set-group-ID bit */               \
     FUSE_NO_EXPORT_SUPPORT)   /* a nodeid means nothing once the kernel has forgotten it */

/* The first version with room in one READDIRPLUS for what the program's buffer holds (Linux 6.16).
 * Before, that is 25 entries: where a program reads all names before it looks at the files, the
 * rest of a small directory would take a lookup each. */
#define MINOR_WITH_ROOM 44

static bool setxattr_is_extended;
static struct {
    _Alignas(uint64_t) char request[FUSE_MIN_READ_BUFFER];
    size_t size;
} init; /* for libfuse */

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

size_t session_init(char *block)
{
    memcpy(block, init.request, init.size);
    return init.size;
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
    if (plane_receive(buffer, &result)) {
        if (result > 0)
            adapt(buffer->mem, (size_t)result);
        return result;
    }
    NEXT(fuse_session_receive_buf);
    result = next == NULL ? -ENOSYS : next(se, buffer);
    return result == -EAGAIN ? -EINTR : result;
}

/* Put the inode number in its place. */
static void show_inode(struct stat *st)
{
    if (!st->st_rdev || S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode))
        return;
    st->st_ino = st->st_rdev;
    st->st_rdev = 0;
}

INTERPOSED int fuse_reply_entry(fuse_req_t request, const struct fuse_entry_param *entry)
{
    struct fuse_entry_param shown = *entry;
    NEXT(fuse_reply_entry);
    show_inode(&shown.attr);
    return next(request, &shown);
}

INTERPOSED int fuse_reply_attr(fuse_req_t request, const struct stat *st, double timeout)
{
    struct stat shown = *st;
    NEXT(fuse_reply_attr);
    show_inode(&shown);
    return next(request, &shown, timeout);
}

INTERPOSED size_t fuse_add_direntry_plus(fuse_req_t request, char *buffer, size_t size,
                                         const char *name, const struct fuse_entry_param *entry,
                                         off_t offset)
{
    struct fuse_entry_param named = *entry;
    if (entry->generation == NAME_ONLY || entry->generation == PLAIN_ENTRY) {
        named.ino = named.generation = 0;
        if (named.attr.st_ino == 0)
            named.attr.st_ino = UNKNOWN_INODE;
    }
    show_inode(&named.attr);
    if (entry->generation == PLAIN_ENTRY) {
        NEXT(fuse_add_direntry);
        return next(request, buffer, size, name, &named.attr, offset);
    }
    NEXT(fuse_add_direntry_plus);
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
    if (dladdr(&setxattr_is_extended, &own) == 0 || own.dli_fname == NULL ||
        dlopen(own.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL) == NULL) {
        PyErr_SetString(PyExc_OSError, "the extension cannot be found among the libraries");
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *py_begin_session(PyObject *Py_UNUSED(module), PyObject *args)
{
    int device, acl, passes_through;
    if (!PyArg_ParseTuple(args, "ipp", &device, &acl, &passes_through))
        return NULL;
    struct fuse_in_header *header = (void *)init.request;
    struct fuse_init_in *in = (void *)(header + 1);
    memset(&init, 0, sizeof init);
    ssize_t size = read(device, init.request, sizeof init.request);
    if (size >= 0 && (size < (ssize_t)(sizeof *header + offsetof(struct fuse_init_in, flags2)) ||
                      header->opcode != FUSE_INIT)) {
        errno = EPROTO;
        size = -1;
    }
    if (size < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    init.size = (size_t)size;
    uint64_t offered = in->flags | (in->flags & FUSE_INIT_EXT ? (uint64_t)in->flags2 << 32 : 0);
    uint64_t flags = offered & (WANTED | (acl ? FUSE_POSIX_ACL : 0));
    if (in->minor < MINOR_WITH_ROOM)
        flags &= ~(uint64_t)FUSE_READDIRPLUS_AUTO;
    if (passes_through && offered & FUSE_PASSTHROUGH)
        flags = (flags & ~(uint64_t)FUSE_WRITEBACK_CACHE) | FUSE_PASSTHROUGH;
    if (flags >> 32)
        flags |= FUSE_INIT_EXT;
    setxattr_is_extended = flags & FUSE_SETXATTR_EXT;
    struct {
        struct fuse_out_header header;
        struct fuse_init_out init;
    } out = {{.len = sizeof out, .unique = header->unique},
             {.major = FUSE_KERNEL_VERSION,
              .minor = FUSE_KERNEL_MINOR_VERSION,
              .max_readahead = in->max_readahead,
              .flags = (uint32_t)flags,
              .flags2 = (uint32_t)(flags >> 32),
              .max_write = MOST_WRITTEN,
              .time_gran = 1,
              .max_pages = (uint16_t)(MOST_WRITTEN / sysconf(_SC_PAGESIZE))}};
    if (flags & FUSE_PASSTHROUGH) /* of file systems that are not stacked themselves */
        memcpy((char *)&out.init + STACK_DEPTH_OFFSET, &(uint32_t){1}, sizeof(uint32_t));
    if (write(device, &out, sizeof out) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromUnsignedLongLong(flags);
}
