/* Copy-up's bytes: cloned, else copied in the kernel, else read and written; holes stay holes.
 *
 * Each way is tried only until it says that it does not serve these files, and the next takes over
 * at the same offset. Bytes are moved at explicit offsets; only SEEK_DATA and SEEK_HOLE move a
 * descriptor's own.
 */
#include "copyup.h"

#include <linux/fs.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define CHUNK ((off_t)8 << 20)  /* what the kernel copies between two checkpoints */
#define BUFFER ((off_t)1 << 20) /* what we copy between two */

struct transfer {
    struct copyup *copy;
    char *buffer; /* NULL until the kernel declined to copy */
};

/* Whether errno says that the kernel cannot clone or copy between these two files, rather than that
 * a copy of them must fail. Where it must (a full disk, a bad sector), the next way finds out too,
 * so it does no harm that some of these are ambiguous: EIO is what CIFS and NFS servers that
 * cannot copy have answered, EPERM and EACCES what seccomp filters and LSMs do. */
static bool
way_is_closed(int error)
{
    switch (error) {
    case EACCES:
    case EBADF:
    case EINVAL:
    case EIO:
    case ENOSYS:
    case ENOTTY:
    case EOPNOTSUPP:
    case EPERM:
    case ETXTBSY:
    case EXDEV:
        return true;
    default:
        return false;
    }
}

static void
went_by(struct transfer *transfer, enum copyup_way way)
{
    if (transfer->copy->way < way) {
        transfer->copy->way = way;
    }
}

static int
write_all(struct transfer *transfer, size_t length, off_t offset)
{
    size_t written = 0;
    while (written < length) {
        ssize_t count;
        COPYUP_CALL(transfer->copy, count,
                    pwrite(transfer->copy->dst, transfer->buffer + written, length - written,
                           offset + (off_t)written));
        if (count < 0) {
            return -1;
        }
        written += (size_t)count;
    }
    return 0;
}

/* Copy up to a buffer at `offset`. Answers the number of bytes, 0 at the source's end, or -1. */
static ssize_t
read_write(struct transfer *transfer, off_t offset, off_t length)
{
    if (length > BUFFER) {
        length = BUFFER;
    }
    ssize_t count;
    COPYUP_CALL(transfer->copy, count,
                pread(transfer->copy->src, transfer->buffer, (size_t)length, offset));
    if (count <= 0) {
        return count;
    }
    if (write_all(transfer, (size_t)count, offset) < 0) {
        return -1;
    }
    went_by(transfer, COPYUP_READ_WRITE);
    return count;
}

/* Copy up to a chunk at `offset` in the kernel. Answers the number of bytes, 0 where it declined,
 * or -1. */
static ssize_t
kernel_copy(struct transfer *transfer, off_t offset, off_t length)
{
    if (length > CHUNK) {
        length = CHUNK;
    }
    /* The call moves these only by what it copied, so after EINTR they still hold. */
    off_t from = offset, to = offset;
    ssize_t count;
    COPYUP_CALL(
        transfer->copy, count,
        copy_file_range(transfer->copy->src, &from, transfer->copy->dst, &to, (size_t)length, 0));
    if (count > 0) {
        went_by(transfer, COPYUP_COPY_FILE_RANGE);
        return count;
    }
    return count < 0 && !way_is_closed(errno) ? -1 : 0;
}

/* Copy the bytes from `offset` to `end`. Answers where the copy stopped: `end`, or before it where
 * the source turned out to end; or -1. */
static off_t
copy_bytes(struct transfer *transfer, off_t offset, off_t end)
{
    while (offset < end) {
        if (copyup_checkpoint(transfer->copy) < 0) {
            return -1;
        }
        ssize_t count = 0;
        if (transfer->buffer == NULL) {
            count = kernel_copy(transfer, offset, end - offset);
            /* 0 is also what some file systems say at the source's end, and others of files whose
             * length is made up, like procfs before Linux 5.19: only a read can tell. */
            if (count == 0 && (transfer->buffer = malloc(BUFFER)) == NULL) {
                return -1;
            }
        }
        if (count == 0) {
            count = read_write(transfer, offset, end - offset);
        }
        if (count < 0) {
            return -1;
        }
        if (count == 0) {
            break;
        }
        offset += count;
    }
    return offset;
}

/* Find the next run of data at or after `*start` and before `*stop`. Answers 1, 0 where only a hole
 * is left, or -1. A file system that does not tell holes has one run, up to `*stop`. */
static int
find_data(struct copyup *copy, off_t *start, off_t *stop)
{
    off_t data, hole;
    COPYUP_CALL(copy, data, lseek(copy->src, *start, SEEK_DATA));
    if (data < 0) {
        if (errno == ENXIO) {
            return 0;
        }
        return errno == EINVAL || errno == EOPNOTSUPP || errno == ENOSYS ? 1 : -1;
    }
    if (data >= *stop) { /* the file grew meanwhile */
        return 0;
    }
    COPYUP_CALL(copy, hole, lseek(copy->src, data, SEEK_HOLE));
    if (hole < 0) {
        return errno == ENXIO ? 0 : -1;
    }
    *start = data;
    if (hole < *stop) {
        *stop = hole;
    }
    return 1;
}

/* Copy what is data of the first `size` bytes. Answers the length to give the copy, or -1. */
static off_t
copy_runs(struct transfer *transfer, off_t size)
{
    off_t offset = 0;
    while (offset < size) {
        off_t start = offset, stop = size;
        int found = find_data(transfer->copy, &start, &stop);
        if (found <= 0) {
            return found < 0 ? -1 : size;
        }
        offset = copy_bytes(transfer, start, stop);
        if (offset < stop) { /* the source ended early, or -1 */
            return offset;
        }
    }
    return size;
}

static int
clone(struct copyup *copy)
{
    int result;
    COPYUP_CALL(copy, result, ioctl(copy->dst, FICLONE, copy->src));
    if (result == 0) {
        copy->way = COPYUP_CLONE;
    }
    return result;
}

int
copyup_data(struct copyup *copy)
{
    if (copyup_checkpoint(copy) < 0) {
        return -1;
    }
    struct transfer transfer = {.copy = copy};
    off_t length;
    if (copy->source.st_size > 0) {
        if (clone(copy) == 0) {
            return 0;
        }
        if (!way_is_closed(errno)) {
            return -1;
        }
        length = copy_runs(&transfer, copy->source.st_size);
    } else {
        /* Empty, or of a kind whose length nobody knows before it was read, as in procfs. */
        transfer.buffer = malloc(BUFFER);
        length = transfer.buffer ? copy_bytes(&transfer, 0, INT64_MAX) : -1;
    }
    free(transfer.buffer);
    if (length < 0) {
        return -1;
    }
    int result;
    COPYUP_CALL(copy, result, ftruncate(copy->dst, length));
    return result;
}
