/* The data of a copy-up: cloned, else copied in the kernel, else read and written. Holes stay
 * holes.
 *
 * Where a method does not support the two files, the next continues at the same offset. Only
 * SEEK_DATA and SEEK_HOLE change the offset of a descriptor. */
#include "copyup.h"

#include <linux/fs.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define CHUNK ((off_t)8 << 20)  /* copied by the kernel between two checkpoints */
#define BUFFER ((off_t)1 << 20) /* read and written between two */

struct transfer {
    struct copyup *copy;
    char *buffer; /* NULL while the kernel copies */
};

/* Whether errno means that the kernel cannot clone or copy between these two files. Some values are
 * ambiguous: EIO comes from a bad sector, and from CIFS and NFS servers that cannot copy; EPERM and
 * EACCES come from seccomp filters and LSMs. This is harmless, as a real fault fails the next
 * method too. */
static bool
is_unsupported(int error)
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
record_method(struct transfer *transfer, enum copyup_method method)
{
    if (transfer->copy->method < method)
        transfer->copy->method = method;
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
        if (count < 0)
            return -1;
        written += (size_t)count;
    }
    return 0;
}

/* Copy at most a buffer at `offset`. Returns the number of bytes, 0 at the end of the source, or
 * -1. */
static ssize_t
read_write(struct transfer *transfer, off_t offset, off_t length)
{
    if (length > BUFFER)
        length = BUFFER;
    ssize_t count;
    COPYUP_CALL(transfer->copy, count,
                pread(transfer->copy->src, transfer->buffer, (size_t)length, offset));
    if (count <= 0)
        return count;
    if (write_all(transfer, (size_t)count, offset) < 0)
        return -1;
    record_method(transfer, COPYUP_READ_WRITE);
    return count;
}

/* Copy at most a chunk at `offset` in the kernel. Returns the number of bytes, 0 where it is
 * unsupported, or -1. */
static ssize_t
kernel_copy(struct transfer *transfer, off_t offset, off_t length)
{
    if (length > CHUNK)
        length = CHUNK;
    /* The call advances these by what it copied, so they are right after EINTR. */
    off_t from = offset, to = offset;
    ssize_t count;
    COPYUP_CALL(
        transfer->copy, count,
        copy_file_range(transfer->copy->src, &from, transfer->copy->dst, &to, (size_t)length, 0));
    if (count > 0) {
        record_method(transfer, COPYUP_COPY_FILE_RANGE);
        return count;
    }
    return count < 0 && !is_unsupported(errno) ? -1 : 0;
}

/* Copy the bytes from `offset` to `end`. Returns the offset reached, which is below `end` where the
 * source ends earlier, or -1. */
static off_t
copy_bytes(struct transfer *transfer, off_t offset, off_t end)
{
    while (offset < end) {
        if (copyup_checkpoint(transfer->copy) < 0)
            return -1;
        ssize_t count = 0;
        if (transfer->buffer == NULL) {
            count = kernel_copy(transfer, offset, end - offset);
            /* 0 may also mean the end of the source, or a file without a true length (procfs before
             * Linux 5.19): a read decides. */
            if (count == 0 && (transfer->buffer = malloc(BUFFER)) == NULL)
                return -1;
        }
        if (count == 0)
            count = read_write(transfer, offset, end - offset);
        if (count < 0)
            return -1;
        if (count == 0)
            break;
        offset += count;
    }
    return offset;
}

/* Find the next run of data at or after `*start` and before `*stop`. Returns 1, 0 where only a hole
 * is left, or -1. Without support for SEEK_DATA there is one run, up to `*stop`. */
static int
find_data(struct copyup *copy, off_t *start, off_t *stop)
{
    off_t data, hole;
    COPYUP_CALL(copy, data, lseek(copy->src, *start, SEEK_DATA));
    if (data < 0) {
        if (errno == ENXIO)
            return 0;
        return errno == EINVAL || errno == EOPNOTSUPP || errno == ENOSYS ? 1 : -1;
    }
    if (data >= *stop) /* the file grew */
        return 0;
    COPYUP_CALL(copy, hole, lseek(copy->src, data, SEEK_HOLE));
    if (hole < 0)
        return errno == ENXIO ? 0 : -1;
    *start = data;
    if (hole < *stop)
        *stop = hole;
    return 1;
}

/* Copy the runs of data in the first `size` bytes. Returns the length of the copy, or -1. */
static off_t
copy_runs(struct transfer *transfer, off_t size)
{
    off_t offset = 0;
    while (offset < size) {
        off_t start = offset, stop = size;
        int found = find_data(transfer->copy, &start, &stop);
        if (found <= 0)
            return found < 0 ? -1 : size;
        offset = copy_bytes(transfer, start, stop);
        if (offset < stop) /* the source ended early, or -1 */
            return offset;
    }
    return size;
}

static int
clone(struct copyup *copy)
{
    int result;
    COPYUP_CALL(copy, result, ioctl(copy->dst, FICLONE, copy->src));
    if (result == 0)
        copy->method = COPYUP_CLONE;
    return result;
}

int
copyup_data(struct copyup *copy)
{
    if (copyup_checkpoint(copy) < 0)
        return -1;
    struct transfer transfer = {.copy = copy};
    off_t length;
    if (copy->source.st_size > 0) {
        if (clone(copy) == 0)
            return 0;
        if (!is_unsupported(errno))
            return -1;
        length = copy_runs(&transfer, copy->source.st_size);
    } else {
        /* Empty, or without a length in stat(2), as in procfs. */
        transfer.buffer = malloc(BUFFER);
        length = transfer.buffer ? copy_bytes(&transfer, 0, INT64_MAX) : -1;
    }
    free(transfer.buffer);
    if (length < 0)
        return -1;
    int result;
    COPYUP_CALL(copy, result, ftruncate(copy->dst, length));
    return result;
}
