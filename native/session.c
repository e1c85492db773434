/* Functions of libfuse as pyfuse3 finds them: ours, which let the kernel open directories without
 * asking, truncate files only in a request of its own, and wait for direct writes.
 *
 * An OPENDIR that is answered with ENOSYS is the last one: from then on the kernel opens and closes
 * directories by itself and keeps what it has read of them (fs/fuse/dir.c: no_opendir; Linux 5.1).
 * But pyfuse3 cannot answer so: its readdir handler is told a file handle, never the node, and the
 * handle is 0 then. So the node is put in its place on the way from libfuse to pyfuse3, once the
 * symbols here lie in front of libfuse's own.
 *
 * With FUSE_ATOMIC_O_TRUNC, which libfuse asks for by itself, opening truncates here and then once
 * more in the kernel alone (fs/fuse/dir.c: fuse_do_setattr, ATTR_OPEN): what another program wrote
 * between the two is on the disk, but not in the kernel's cache, and comes to light at the next
 * mount.
 *
 * With FUSE_ASYNC_DIO, which libfuse asks for by itself too, pages read during an asynchronous
 * direct write stay in the kernel's cache with the old bytes (mm/filemap.c:
 * generic_file_direct_write).
 *
 * With FUSE_SETXATTR_EXT a SETXATTR says whether setting an ACL clears the set-group-ID bit; the
 * kernel alone knows the caller's groups. libfuse before 3.17 knows nothing of it, and pyfuse3
 * passes no such flag on: so it travels as the request's umask, which a SETXATTR has none of.
 *
 * And an entry of a listing may be no more than a name with its inode number, of which the kernel
 * is to remember nothing (fs/fuse/readdir.c: no nodeid): pyfuse3 knows one number for both. Such an
 * entry says so by its generation; its number is 0 where even that cannot be had, and then becomes
 * one that readdir(3) does not take for a deleted file's.
 *
 * There is one session in a process, so what is kept of it is static.
 */
#include "native.h"

#define FUSE_USE_VERSION 31
#include <fuse3/fuse_lowlevel.h>

#include <dlfcn.h>
#include <linux/fuse.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

#undef fuse_session_new

struct libfuse_version;

#define UNKNOWN_INODE 0xffffffff /* as libfuse's own FUSE_UNKNOWN_INO */

typedef void (*directory_read)(fuse_req_t, fuse_ino_t, size_t, off_t, struct fuse_file_info *);
typedef void (*directory_sync)(fuse_req_t, fuse_ino_t, int, struct fuse_file_info *);
typedef void (*attribute_set)(fuse_req_t, fuse_ino_t, const char *, const char *, size_t, int);
typedef struct fuse_ctx *(*context_of)(fuse_req_t); /* const to others, but the request's own */
typedef int (*reply_with_error)(fuse_req_t, int);
typedef void (*initialize)(void *, struct fuse_conn_info *);

static struct {
    int wanted;
    int in_use;
    directory_read readdirplus;
    directory_sync fsyncdir;
    attribute_set setxattr;
    int setxattr_is_extended;
    initialize init;
    context_of req_ctx;
    reply_with_error reply_err;
} session;

static void
init_without_unwanted(void *userdata, struct fuse_conn_info *connection)
{
    session.init(userdata, connection);
    connection->want &= ~(unsigned)(FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_ASYNC_DIO);
}

static void
refuse_opendir(fuse_req_t request, fuse_ino_t node, struct fuse_file_info *file)
{
    (void)node;
    (void)file;
    session.reply_err(request, ENOSYS);
}

static void
readdirplus_of_node(fuse_req_t request, fuse_ino_t node, size_t size, off_t offset,
                    struct fuse_file_info *file)
{
    struct fuse_file_info named = *file;

    named.fh = node;
    session.readdirplus(request, node, size, offset, &named);
}

static void
fsyncdir_of_node(fuse_req_t request, fuse_ino_t node, int only_data, struct fuse_file_info *file)
{
    struct fuse_file_info named = *file;

    named.fh = node;
    session.fsyncdir(request, node, only_data, &named);
}

/* libfuse takes the request for a short one (FUSE_COMPAT_SETXATTR_IN_SIZE): its name is the fields
 * that follow then. */
static void
setxattr_with_flags(fuse_req_t request, fuse_ino_t node, const char *name, const char *value,
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
    session.setxattr(request, node, name, value, size, flags);
}

/* A function of the libfuse that is loaded already, not ours of the same name; NULL if there is
 * none. */
static void *
of_libfuse(const char *name)
{
    static const char *const libraries[] = {"libfuse3.so.4", "libfuse3.so.3"};

    for (size_t i = 0; i < sizeof(libraries) / sizeof(*libraries); i++) {
        void *library = dlopen(libraries[i], RTLD_LAZY | RTLD_NOLOAD);
        if (library != NULL) {
            void *function = dlsym(library, name);
            dlclose(library);
            return function;
        }
    }
    return NULL;
}

/* The operations as libfuse shall have them. */
static const struct fuse_lowlevel_ops *
adapted(const struct fuse_lowlevel_ops *given, size_t size, struct fuse_lowlevel_ops *ours)
{
    size_t needed = offsetof(struct fuse_lowlevel_ops, readdirplus) + sizeof(given->readdirplus);

    session.reply_err = (reply_with_error)of_libfuse("fuse_reply_err");
    session.req_ctx = (context_of)of_libfuse("fuse_req_ctx");
    if (!session.wanted || size < needed || given->init == NULL || given->readdirplus == NULL ||
        given->fsyncdir == NULL || given->setxattr == NULL || session.reply_err == NULL ||
        session.req_ctx == NULL)
        return given;
    memset(ours, 0, sizeof(*ours));
    memcpy(ours, given, size < sizeof(*ours) ? size : sizeof(*ours));
    session.readdirplus = given->readdirplus;
    session.fsyncdir = given->fsyncdir;
    session.setxattr = given->setxattr;
    session.init = given->init;
    ours->setxattr = setxattr_with_flags;
    ours->init = init_without_unwanted;
    ours->opendir = refuse_opendir;
    ours->readdirplus = readdirplus_of_node;
    ours->fsyncdir = fsyncdir_of_node;
    session.in_use = 1;
    return ours;
}

struct fuse_session *fuse_session_new(struct fuse_args *args, const struct fuse_lowlevel_ops *given,
                                      size_t size, void *userdata);
struct fuse_session *fuse_session_new_versioned(struct fuse_args *args,
                                                const struct fuse_lowlevel_ops *given, size_t size,
                                                struct libfuse_version *version, void *userdata);

/* Both take the operations over by copying them (libfuse: lib/fuse_lowlevel.c). The first is the
 * symbol of libfuse before 3.17, the second what its header makes of that name since. */
__attribute__((visibility("default"))) struct fuse_session *
fuse_session_new(struct fuse_args *args, const struct fuse_lowlevel_ops *given, size_t size,
                 void *userdata)
{
    struct fuse_lowlevel_ops ours;
    struct fuse_session *(*next)(struct fuse_args *, const struct fuse_lowlevel_ops *, size_t,
                                 void *) = of_libfuse("fuse_session_new");
    const struct fuse_lowlevel_ops *ops;

    if (next == NULL)
        return NULL;
    ops = adapted(given, size, &ours);
    return next(args, ops, ops == &ours ? sizeof(ours) : size, userdata);
}

__attribute__((visibility("default"))) struct fuse_session *
fuse_session_new_versioned(struct fuse_args *args, const struct fuse_lowlevel_ops *given,
                           size_t size, struct libfuse_version *version, void *userdata)
{
    struct fuse_lowlevel_ops ours;
    struct fuse_session *(*next)(struct fuse_args *, const struct fuse_lowlevel_ops *, size_t,
                                 struct libfuse_version *, void *) =
        of_libfuse("fuse_session_new_versioned");
    const struct fuse_lowlevel_ops *ops;

    if (next == NULL)
        return NULL;
    ops = adapted(given, size, &ours);
    return next(args, ops, ops == &ours ? sizeof(ours) : size, version, userdata);
}

int fuse_session_receive_buf(struct fuse_session *se, struct fuse_buf *buffer);

/* A request may be gone before it is read, with whoever asked; pyfuse3 knows EINTR as the answer
 * that means "wait again", and takes EAGAIN, which a descriptor that does not block answers then,
 * for a failure. */
__attribute__((visibility("default"))) int
fuse_session_receive_buf(struct fuse_session *se, struct fuse_buf *buffer)
{
    static int (*next)(struct fuse_session *, struct fuse_buf *);
    int result;

    if (next == NULL)
        next = of_libfuse("fuse_session_receive_buf");
    result = next(se, buffer);
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
        next = of_libfuse("fuse_add_direntry_plus");
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
py_name_directories(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    Dl_info own;

    /* Put our symbols in front of those of libraries that are loaded later. */
    if (dladdr(&session, &own) == 0 || own.dli_fname == NULL ||
        dlopen(own.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL) == NULL) {
        PyErr_SetString(PyExc_OSError, "the extension cannot be found among the libraries");
        return NULL;
    }
    session.wanted = 1;
    Py_RETURN_NONE;
}

static PyObject *
py_adapts_session(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    return PyBool_FromLong(session.in_use);
}

static PyObject *
py_expect_setxattr_flags(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    session.setxattr_is_extended = session.in_use;
    Py_RETURN_NONE;
}

PyMethodDef native_session_methods[] = {
    {"adapts_session", py_adapts_session, METH_NOARGS,
     "adapts_session($module, /)\n--\n\nWhether pyfuse3's session was adapted."},
    {"name_directories", py_name_directories, METH_NOARGS,
     "name_directories($module, /)\n--\n\n"
     "Have a session of pyfuse3, imported later, name open directories by their node."},
    {"expect_setxattr_flags", py_expect_setxattr_flags, METH_NOARGS,
     "expect_setxattr_flags($module, /)\n--\n\n"
     "Read SETXATTR requests as extended ones: FUSE_SETXATTR_EXT was agreed on."},
    {NULL, NULL, 0, NULL},
};
