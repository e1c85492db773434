/* The state of the data plane, and what plane.c and listing.c know of each other. See plane.c. */
#ifndef OVERLAYKIT_NODES_H
#define OVERLAYKIT_NODES_H

#include "names.h"
#include "native.h"
#include "plane.h"
#include "protocol.h"

#define BLOCK_BYTES (MOST_WRITTEN + (1 << 13)) /* more than the longest request, a WRITE */
#define INODE_LIMIT (1ULL << 48)               /* overlay/numbering.py */
#define AUFS_PREFIX ".wh."

enum {
    MOST_NAMES = 255,
    MOST_NOTED = 560, /* bytes of a request after its header: two names */
    LISTING_BYTES = 1 << 15,
    MOST_EMITTED = 1 << 13, /* entries of one READDIRPLUS */
    WIDE = 256,             /* entries; most programs use only the names of such directories */
    OPCODES = 64,
    LATENCIES = 16,
    BEGUN = 1 << 12,
    MOST_CLOSED = 1 << 10,
    MANY_FORGOTTEN = 256,
    MOST_INCOMPLETE = 64,
    MOST_WITH_CHANGES = 1 << 15,
    MOST_KEPT = 1 << 17, /* names of all directories */
    MANY_MISSED = 4,     /* names of a directory, after which its own are read, */
    MOST_MISSED = 256,   /* if they are no more */
};

enum owner { PYTHON, OURS, CROSSING, DEAD };

struct node {
    struct node *next_id, *next_name; /* in their buckets */
    struct node *above;               /* the directory it was found in; NULL of Python's */
    uint64_t id, lookups, above_id;
    uint32_t generation, children, handles;
    size_t shared; /* its only handle, and 1; or 0 */
    enum owner owner;
    mode_t kind;
    /* Of a directory: */
    int fd;                /* O_PATH; also of a removed file. -1: closed */
    int upper;             /* its directory in the upper, where `changes` or resolved; else -1 */
    struct lowers *lowers; /* that show in it, also in others; NULL: none */
    struct names *names;   /* all that are in it, if they are known */
    uint32_t asked_of_python;
    uint8_t missed;   /* lookups of what is not there: it begins again after 255 */
    uint8_t found_at; /* of ours: which lower of the directory above has it, if that has some;
                       * PLACE_OF_PYTHON: Python has put it where it is, or is about to */
    bool lists;       /* the names are enough for a listing */
    bool granted, withheld, used;
    bool lists_inodes, below_lists; /* d_ino is st_ino here; in all directories below */
    bool reading, wide, changes;    /* granted for changes, or made here */
    bool changed;                   /* in it a name, since Python asked */
    uint64_t position;              /* where the last listing ended, */
    off_t place;                    /* and for lseek(2) */
    dev_t device;
    uint64_t base;
    enum liveness liveness; /* of the lowers, also of all below */
    /* What the kernel knows of a live one, and when it last had no pages of it; 0: nothing: */
    int64_t told_size, told_modified, told_changed, fresh;
    /* Of what was made here, or given by Python, in the upper: */
    bool made, removed;
    uint64_t inode;
    bool direct; /* and of files as in overlay/openfile.py: */
    int64_t modified, asked, opened, change_time;
    /* For a later daemon: */
    bool left;         /* by an earlier one: Python's, as soon as a request names it */
    int kept;          /* of what may lose its last name, in the upper: O_PATH; -1: none */
    struct link *link; /* where it is found; NULL: of Python's nowhere, of ours by above_id, name */
    char *name, given_name[];
};

struct link {
    uint64_t above; /* 0: nowhere in the tree, and `name` is a file's place in a lower */
    char name[];
};

struct lowers {
    size_t count;
    struct place {
        int fd;
        dev_t device;
        uint64_t base;
        bool below_lists;
    } at[];
};

struct handle {
    int fd;              /* -1: closed, or Python's, or left by an earlier daemon */
    uint32_t generation; /* a RELEASE that is sent again is of an earlier one */
    uint64_t python;     /* of Python, unless 0 */
    struct node *node;
    bool used, writable;
    bool recent, written; /* without OPEN: since it was passed for being closed, since opened */
};

struct state {
    /* Of this daemon alone: */
    bool ended;
    bool forgets; /* Python has to, soon */
    bool resent;  /* the request that Python is to answer may have begun */
    char *block;  /* of the request that is read */
    size_t pending;
    char *reply;
    struct node **ids, **names; /* buckets; their number is a power of 2 */
    size_t buckets, count, files, directories, hand, names_kept;
    struct node **crossing;
    size_t crossing_count, crossing_room;
    struct forgotten {
        uint64_t id;
        int64_t change_time;
    } *forgotten;
    size_t forgotten_count, forgotten_room;
    /* Also of a later one, which sets most of it again: */
    int device;
    struct handle *handles;
    size_t handle_count;
    uint64_t most_files, most_directories;
    uint32_t generation;
    dev_t upper_device;
    uint64_t upper_base;
    struct timeout {
        uint64_t seconds;
        uint32_t nanoseconds;
    } timeouts[2];           /* of what only we change, and of live lowers */
    uint32_t unmapped[2][2]; /* shown as root's: user and group, of lowers and of the upper */
    uint32_t uid, gid;
    int static_nlink, xattr, acl, may_spin, no_open, keeps_names; /* set by PyArg_ParseTuple */
    struct fuse_in_header reading; /* of the request that was read last */
    struct begun {
        uint64_t unique;
        uint64_t blame; /* for the ends of daemons */
    } begun[BEGUN];     /* the last requests, by `unique` */
    uint64_t requests;
    uint64_t blame; /* that the requests under way get for the crash of the last daemon */
    struct renaming {
        bool under_way;
        uint32_t flags;
        uint64_t above;       /* 0: none since a request was read that is not sent again */
        uint64_t onto, inode; /* `inode`: the one that is moved, if `flags` */
        char name[MOST_NAMES + 1], new_name[MOST_NAMES + 1];
    } renaming;
};

extern struct state *native_plane;
#define plane (*native_plane)

/* ---- plane.c ---- */

/* The directory, open, in which a node below `above` lies. */
struct place place_in(const struct node *above, bool made, unsigned place);

/* The node of an entry whose attributes are `st`, one of ours; NULL if Python has to say. */
struct node *node_of(struct node *above, const char *name, unsigned place, const struct stat *st);

/* Drop the node if nothing uses it any more, and the directories above that only it kept. */
void settle(struct node *node);
struct node *find(uint64_t id);
struct node *child(const struct node *above, const char *name);
void insert_id(struct node *node);
void insert_name(struct node *node);
void grow_table(void);
void drop_name(struct node *node);
void move(struct node *node, struct node *above, const char *name);

/* Note where a name of the directory is from now on, if its names are kept. */
void keep_name(struct node *directory, const char *text, struct name name);
void drop_names(struct node *node);

void fill_entry(struct fuse_entry_out *to, const struct node *node, const struct stat *st);

/* Returns whether the kernel took it: the request may be interrupted, or the mount gone. */
bool reply(uint64_t unique, int error, const void *data, size_t size);

/* ---- listing.c ---- */

/* Whether the file system also finds names in other letters than those that it lists. */
bool folds(const struct names *names, unsigned place, int fd);

/* A lower that has all names of a directory. */
struct lone {
    unsigned place;
    bool is_trusted; /* its listings give the inode numbers of regular files */
    size_t most;
};

/* Keep the names that a lower has. Returns false if they are more than `most`, or if there is a
 * mark or anything unusual. */
bool read_names(struct node *directory, const struct lone *lone);

/* Answer a READDIR or READDIRPLUS. */
bool answer_listing(const struct fuse_in_header *header, struct node *directory);

/* ---- kept.c --------------------------------------------------------------------------------- */

/* What a later daemon needs is stored before it is relied on: the compiler keeps this order. */
#define STORED() __asm__ volatile("" ::: "memory")

/* Memory that the process which forks the daemons has, too. Ends the process if there is none. */
void *kept_alloc(size_t size, bool is_node);
void kept_free(void *memory);

/* Memory for a request of BLOCK_BYTES. If this process may be killed and replaced, all its pages
 * are there: while a process is being killed, the kernel takes no page for what it reads, and fails
 * the request with EIO (fs/fuse/dev.c: fuse_dev_do_read, mm/gup.c: __get_user_pages). */
char *kept_block(void);

/* Close a descriptor, whose number is taken away first. */
void kept_close(int *fd);

/* Note that a request is begun, and whether it may have been before (`resent`). Returns whether it
 * may be: not if two daemons have crashed with it. */
bool kept_begin(const struct fuse_in_header *header);

/* Note in one step where a node is found from now on. */
void kept_link(struct node *node, uint64_t above, const char *name);

/* Give a node another name. */
void kept_name(struct node *node, const char *name);

/* Free a node, which nothing uses any more, with its name and its link. */
void kept_free_node(struct node *node);

/* Note a rename, which may have been carried out when the daemon ends before `renaming.under_way`
 * is false again. */
void kept_begin_rename(uint64_t above, const char *name, uint64_t onto, const char *new_name);

/* Take over what an earlier daemon has left, if there was one. That may have been killed here. */
void kept_recover(void);

#endif
