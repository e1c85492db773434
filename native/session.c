/* Adapts the libfuse session that pyfuse3 makes: symbols of libfuse, interposed in front of its
 * own.
 *
 * OPENDIR: answered with ENOSYS once. From then on the kernel opens and closes directories without
 * a request and caches their content (fs/fuse/dir.c: no_opendir; Linux 5.1). The file handle of a
 * READDIRPLUS is then 0, and pyfuse3 gives its handler no nodeid; so the nodeid takes the handle's
 * place on the way from libfuse to pyfuse3.
 *
 * FUSE_ATOMIC_O_TRUNC: off, though libfuse asks for it. With it an open truncates here, and a
 * second time in the kernel alone (fs/fuse/dir.c: fuse_do_setattr, ATTR_OPEN). What another program
 * writes between the two is on the disk and missing from the kernel's cache until the next mount.
 *
 * FUSE_ASYNC_DIO: off, though libfuse asks for it. With it, pages read during an asynchronous
 * direct write stay in the kernel's cache with the old bytes (mm/filemap.c:
 * generic_file_direct_write).
 *
 * FUSE_SETXATTR_EXT: a SETXATTR says whether setting an ACL clears the set-group-ID bit; only the
 * kernel knows the caller's groups. libfuse before 3.17 does not know the flag, and pyfuse3 does
 * not pass it on. So it travels as the request's umask, which a SETXATTR has no other use for.
 *
 * FUSE_HANDLE_KILLPRIV_V2: whether a WRITE or a SETATTR clears set-ID bits is in the request, and
 * neither libfuse nor pyfuse3 passes it on. So it is read from the request itself, and travels as
 * the bit CLEARS_SET_IDS of a WRITE's file handle, and as a SETATTR's umask. (An OPEN may say so
 * too, with FUSE_ATOMIC_O_TRUNC only.)
 *
 * READDIRPLUS: an entry may be a name with its inode number alone, of which the kernel makes no
 * dentry (fs/fuse/readdir.c: no nodeid). pyfuse3 has one number for nodeid and inode number, so the
 * generation NAME_ONLY marks such an entry. An inode number of 0 becomes one that readdir(3) does
 * not take for a deleted file's.
 *
 * A process has one session, so its state is static.
 */
#include "native.h"

#include "plane.h"

#include <dlfcn.h>
#include <linux/fuse.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

#undef fuse_session_new

struct libfuse_version;

#define UNKNOWN_INODE 0xffffffff /* as libfuse's own FUSE_UNKNOWN_INO */

typedef void (*readdirplus_fn)(fuse_req_t, fuse_ino_t, size_t, off_t, struct fuse_file_info *);
typedef void (*fsyncdir_fn)(fuse_req_t, fuse_ino_t, int, struct fuse_file_info *);
typedef void (*setattr_fn)(fuse_req_t, fuse_ino_t, struct stat *, int, struct fuse_file_info *);
typedef void (*write_fn)(fuse_req_t, fuse_ino_t, struct fuse_bufvec *, off_t,
                         struct fuse_file_info *);
typedef void (*setxattr_fn)(fuse_req_t, fuse_ino_t, const char *, const char *, size_t, int);
/* libfuse's header has a const result; the request owns it. */
typedef struct fuse_ctx *(*req_ctx_fn)(fuse_req_t);
typedef int (*reply_err_fn)(fuse_req_t, int);
typedef void (*init_fn)(void *, struct fuse_conn_info *);

static struct {
    int wanted;
    int in_use;
    readdirplus_fn readdirplus;
    fsyncdir_fn fsyncdir;
    setxattr_fn setxattr;
    int setxattr_is_extended;
    setattr_fn setattr;
    write_fn write;
    int clears_set_ids; /* the request that was read last */
    init_fn init;
    req_ctx_fn req_ctx;
    reply_err_fn reply_err;
} session;

static void
init_without_unwanted_flags(void *userdata, struct fuse_conn_info *connection)
{
    session.init(userdata, connection);
    /* Requests in a pipe could not be looked at. */
    connection->want &=
        ~(unsigned)(FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_ASYNC_DIO | FUSE_CAP_SPLICE_READ);
}

/* Whether a request of `size` bytes clears the set-ID bits. */
static int
clears_set_ids(const struct fuse_buf *buffer, size_t size)
{
    const struct fuse_in_header *header = buffer->mem;
    const void *in = header + 1;

    if (size < sizeof(*header) + sizeof(struct fuse_write_in) || buffer->flags & FUSE_BUF_IS_FD)
        return 0;
    if (header->opcode == FUSE_WRITE)
        return (((const struct fuse_write_in *)in)->write_flags & FUSE_WRITE_KILL_SUIDGID) != 0;
    return header->opcode == FUSE_SETATTR &&
           ((const struct fuse_setattr_in *)in)->valid & FATTR_KILL_SUIDGID;
}

static void
setattr_with_kill(fuse_req_t request, fuse_ino_t nodeid, struct stat *attributes, int changed,
                  struct fuse_file_info *file)
{
    session.req_ctx(request)->umask = session.clears_set_ids ? S_ISUID | S_ISGID : 0;
    session.setattr(request, nodeid, attributes, changed, file);
}

static void
write_with_kill(fuse_req_t request, fuse_ino_t nodeid, struct fuse_bufvec *data, off_t offset,
                struct fuse_file_info *file)
{
    struct fuse_file_info marked = *file;

    if (session.clears_set_ids)
        marked.fh |= CLEARS_SET_IDS;
    session.write(request, nodeid, data, offset, &marked);
}

static void
refuse_opendir(fuse_req_t request, fuse_ino_t nodeid, struct fuse_file_info *file)
{
    (void)nodeid;
    (void)file;
    session.reply_err(request, ENOSYS);
}

static void
readdirplus_by_nodeid(fuse_req_t request, fuse_ino_t nodeid, size_t size, off_t offset,
                      struct fuse_file_info *file)
{
    struct fuse_file_info with_nodeid = *file;

    with_nodeid.fh = nodeid;
    session.readdirplus(request, nodeid, size, offset, &with_nodeid);
}

static void
fsyncdir_by_nodeid(fuse_req_t request, fuse_ino_t nodeid, int only_data,
                   struct fuse_file_info *file)
{
    struct fuse_file_info with_nodeid = *file;

    with_nodeid.fh = nodeid;
    session.fsyncdir(request, nodeid, only_data, &with_nodeid);
}

/* libfuse reads the request as a short one (FUSE_COMPAT_SETXATTR_IN_SIZE): `name` begins with the
 * further fields. */
static void
setxattr_with_flags(fuse_req_t request, fuse_ino_t nodeid, const char *name, const char *value,
                    size_t size, int flags)
{
    if (session.setxattr_is_extended) {
        struct fuse_setxattr_in in;
        const size_t known = offsetof(struct fuse_setxattr_in, setxattr_flags);

        memcpy(&in.setxattr_flags, name, sizeof(in) - known);
        name += sizeof(in) - known;
        value = name + strlen(name) + 1;
        if (in.setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID)
            session.req_ctx(request)->umask = S_ISGID;
    }
    session.setxattr(request, nodeid, name, value, size, flags);
}

/* A function of the loaded libfuse, not the one of the same name here. Returns NULL if there is
 * none. */
static void *
libfuse_function(const char *name)
{
    static const char *const libraries[] = {"libfuse3.so.4", "libfuse3.so.3"};
    /* Kept: a search for the other one takes dozens of system calls. */
    static void *library;

    for (size_t i = 0; library == NULL && i < sizeof(libraries) / sizeof(*libraries); i++)
        library = dlopen(libraries[i], RTLD_LAZY | RTLD_NOLOAD);
    return library == NULL ? NULL : dlsym(library, name);
}

/* The operations for libfuse: `ours`, or `given` where the session cannot be adapted. */
static const struct fuse_lowlevel_ops *
adapt_operations(const struct fuse_lowlevel_ops *given, size_t size, struct fuse_lowlevel_ops *ours)
{
    size_t needed = offsetof(struct fuse_lowlevel_ops, readdirplus) + sizeof(given->readdirplus);

    session.reply_err = (reply_err_fn)libfuse_function("fuse_reply_err");
    session.req_ctx = (req_ctx_fn)libfuse_function("fuse_req_ctx");
    if (!session.wanted || size < needed || given->init == NULL || given->readdirplus == NULL ||
        given->fsyncdir == NULL || given->setxattr == NULL || given->setattr == NULL ||
        given->write_buf == NULL || session.reply_err == NULL || session.req_ctx == NULL)
        return given;
    memset(ours, 0, sizeof(*ours));
    memcpy(ours, given, size < sizeof(*ours) ? size : sizeof(*ours));
    session.readdirplus = given->readdirplus;
    session.fsyncdir = given->fsyncdir;
    session.setxattr = given->setxattr;
    session.init = given->init;
    session.setattr = given->setattr;
    session.write = given->write_buf;
    ours->setxattr = setxattr_with_flags;
    ours->setattr = setattr_with_kill;
    ours->write_buf = write_with_kill;
    ours->init = init_without_unwanted_flags;
    ours->opendir = refuse_opendir;
    ours->readdirplus = readdirplus_by_nodeid;
    ours->fsyncdir = fsyncdir_by_nodeid;
    session.in_use = 1;
    return ours;
}

struct fuse_session *fuse_session_new(struct fuse_args *args, const struct fuse_lowlevel_ops *given,
                                      size_t size, void *userdata);
struct fuse_session *fuse_session_new_versioned(struct fuse_args *args,
                                                const struct fuse_lowlevel_ops *given, size_t size,
                                                struct libfuse_version *version, void *userdata);

/* Both copy the operations (libfuse: lib/fuse_lowlevel.c). The first is the symbol of libfuse
 * before 3.17, the second that of later ones. */
__attribute__((visibility("default"))) struct fuse_session *
fuse_session_new(struct fuse_args *args, const struct fuse_lowlevel_ops *given, size_t size,
                 void *userdata)
{
    struct fuse_lowlevel_ops ours;
    struct fuse_session *(*next)(struct fuse_args *, const struct fuse_lowlevel_ops *, size_t,
                                 void *) = libfuse_function("fuse_session_new");
    const struct fuse_lowlevel_ops *ops;

    if (next == NULL)
        return NULL;
    ops = adapt_operations(given, size, &ours);
    return next(args, ops, ops == &ours ? sizeof(ours) : size, userdata);
}

__attribute__((visibility("default"))) struct fuse_session *
fuse_session_new_versioned(struct fuse_args *args, const struct fuse_lowlevel_ops *given,
                           size_t size, struct libfuse_version *version, void *userdata)
{
    struct fuse_lowlevel_ops ours;
    struct fuse_session *(*next)(struct fuse_args *, const struct fuse_lowlevel_ops *, size_t,
                                 struct libfuse_version *, void *) =
        libfuse_function("fuse_session_new_versioned");
    const struct fuse_lowlevel_ops *ops;

    if (next == NULL)
        return NULL;
    ops = adapt_operations(given, size, &ours);
    return next(args, ops, ops == &ours ? sizeof(ours) : size, version, userdata);
}

int fuse_session_receive_buf(struct fuse_session *se, struct fuse_buf *buffer);

/* A non-blocking descriptor answers EAGAIN where the request is gone before it is read. pyfuse3
 * takes EAGAIN for a failure, and waits again after EINTR. */
__attribute__((visibility("default"))) int
fuse_session_receive_buf(struct fuse_session *se, struct fuse_buf *buffer)
{
    static int (*next)(struct fuse_session *, struct fuse_buf *);
    int result;

    if (next == NULL)
        next = libfuse_function("fuse_session_receive_buf");
    if (!plane_receive(buffer, &result))
        result = next(se, buffer);
    session.clears_set_ids = result > 0 && clears_set_ids(buffer, (size_t)result);
    return result == -EAGAIN ? -EINTR : result;
}

size_t fuse_add_direntry_plus(fuse_req_t request, char *buffer, size_t size, const char *name,
                              const struct fuse_entry_param *entry, off_t offset);

__attribute__((visibility("default"))) size_t
fuse_add_direntry_plus(fuse_req_t request, char *buffer, size_t size, const char *name,
                       const struct fuse_entry_param *entry, off_t offset)
{
    static size_t (*next)(fuse_req_t, char *, size_t, const char *, const struct fuse_entry_param *,
                          off_t);
    struct fuse_entry_param named;

    if (next == NULL)
        next = libfuse_function("fuse_add_direntry_plus");
    if (entry->generation == NAME_ONLY) {
        named = *entry;
        named.ino = named.generation = 0;
        if (named.attr.st_ino == 0)
            named.attr.st_ino = UNKNOWN_INODE;
        entry = &named;
    }
    return next(request, buffer, size, name, entry, offset);
}

static PyObject *
py_adapt_session(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    Dl_info own;

    /* Symbols here then precede those of libraries loaded later. */
    if (dladdr(&session, &own) == 0 || own.dli_fname == NULL ||
        dlopen(own.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL) == NULL) {
        PyErr_SetString(PyExc_OSError, "the extension cannot be found among the libraries");
        return NULL;
    }
    session.wanted = 1;
    Py_RETURN_NONE;
}

static PyObject *
py_is_session_adapted(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    return PyBool_FromLong(session.in_use);
}

static PyObject *
py_enable_setxattr_ext(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    session.setxattr_is_extended = session.in_use;
    Py_RETURN_NONE;
}

PyMethodDef native_session_methods[] = {
    {"is_session_adapted", py_is_session_adapted, METH_NOARGS,
     "is_session_adapted($module, /)\n--\n\nWhether pyfuse3's session was adapted."},
    {"adapt_session", py_adapt_session, METH_NOARGS,
     "adapt_session($module, /)\n--\n\n"
     "Adapt the session of pyfuse3, which is imported later: a directory's handle is its nodeid."},
    {"enable_setxattr_ext", py_enable_setxattr_ext, METH_NOARGS,
     "enable_setxattr_ext($module, /)\n--\n\n"
     "Read SETXATTR requests as extended ones, after FUSE_SETXATTR_EXT is negotiated."},
    {NULL, NULL, 0, NULL},
};
