/* The memory image of the daemons of one fork server.
 *
 * A forked interpreter writes into most pages it uses: counts of references move with each use of
 * an object. The pages then differ from the server's, but two idle daemons of one server have
 * nearly the same ones, at the same addresses. One daemon publishes its pages in a sealed memfd.
 * Each daemon, once idle, maps the image (MAP_PRIVATE), writes into it what it has otherwise, and
 * moves it into the place of its own pages in one step.
 *
 * Memory keeps its content; only what backs it changes. Nothing may write to it until then: signals
 * are blocked, no other thread exists, and nothing here allocates. The thread's stack is left out,
 * and thread-local storage, into which the kernel writes (rseq(2)).
 *
 * MADV_DONTNEED of such memory gives the image's content, not zeros. glibc and Python use it for
 * memory that they have free, and clear that themselves where it must be clear.
 *
 * The file: a header of HEADER_BYTES, and the pages of its ranges, one after another.
 */
#include "native.h"

#include <inttypes.h>
#include <limits.h>
#include <malloc.h>
#include <signal.h>
#include <sys/mman.h>

enum {
    HEADER_BYTES = 1 << 13,
    MOST_RANGES = HEADER_BYTES / 16 - 1,
    MOST_REGIONS = 1 << 10,
    LEAST_REGION_BYTES = 1 << 18, /* smaller than the heap and an arena of Python's */
    MOST_REGION_BYTES = 1 << 30,  /* the shadow memory of a sanitizer is larger */
    MOST_IMAGE_BYTES = 1 << 25,
    BRIDGED_PAGES = 4, /* each mapping costs the kernel half a kilobyte */
};

#define SEALS (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* Documentation/admin-guide/mm/pagemap.rst */
#define PAGE_PRESENT (1ULL << 63)
#define PAGE_OF_FILE (1ULL << 61)
#define PAGE_EXCLUSIVE (1ULL << 56)

struct range {
    uint64_t start, end;
};

struct header {
    uint64_t count, unused;
    struct range ranges[MOST_RANGES];
};

_Static_assert(sizeof(struct header) <= HEADER_BYTES, "the header has its place");

/* What the image is made from or mapped over: private writable memory. */
struct work {
    size_t page;
    struct header header;
    struct range regions[MOST_REGIONS];
    size_t region_count;
};

static bool
holds(const struct range *range, const void *address)
{
    return (uintptr_t)address >= range->start && (uintptr_t)address < range->end;
}

/* Find the memory that may be replaced: private and writable. */
static int
find_regions(struct work *work)
{
    char line[PATH_MAX + 128];
    FILE *maps = fopen("/proc/self/maps", "re");
    if (!maps)
        return -1;
    while (fgets(line, sizeof line, maps) && work->region_count < MOST_REGIONS) {
        struct range *last = work->region_count ? &work->regions[work->region_count - 1] : NULL;
        struct range found;
        char permissions[5];
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s", &found.start, &found.end, permissions) !=
                3 ||
            strcmp(permissions, "rw-p") != 0 || holds(&found, &line) || holds(&found, &errno) ||
            found.end - found.start > MOST_REGION_BYTES)
            continue;
        if (last && last->end == found.start)
            last->end = found.end;
        else
            work->regions[work->region_count++] = found;
    }
    fclose(maps);
    return 0;
}

static bool
is_replaceable(const struct work *work, const struct range *range)
{
    for (size_t i = 0; i < work->region_count; i++)
        if (range->start >= work->regions[i].start && range->end <= work->regions[i].end)
            return true;
    return false;
}

/* Note the ranges of pages that this process alone has. */
static int
find_ranges(struct work *work)
{
    struct header *header = &work->header;
    uint64_t entries[512];
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pagemap < 0)
        return -1;
    for (size_t i = 0; i < work->region_count; i++) {
        const struct range *region = &work->regions[i];
        struct range *last = NULL;
        if (region->end - region->start < LEAST_REGION_BYTES)
            continue;
        for (uint64_t at = region->start; at < region->end;) {
            uint64_t left = (region->end - at) / work->page;
            size_t most = left < 512 ? left : 512;
            ssize_t got = pread(pagemap, entries, most * 8, (off_t)(at / work->page * 8));
            if (got < 8) {
                close(pagemap);
                return -1;
            }
            for (ssize_t k = 0; k < got / 8; k++, at += work->page) {
                if ((entries[k] & (PAGE_PRESENT | PAGE_OF_FILE | PAGE_EXCLUSIVE)) !=
                    (PAGE_PRESENT | PAGE_EXCLUSIVE))
                    continue;
                if (!last || at - last->end > BRIDGED_PAGES * work->page) {
                    if (header->count == MOST_RANGES)
                        continue;
                    last = &header->ranges[header->count++];
                    last->start = at;
                }
                last->end = at + work->page;
            }
        }
    }
    close(pagemap);
    return 0;
}

/* Put a range of the image in place of the memory there, changed to what the memory holds. Returns:
 * the number of pages that are the image's now, or -1 with errno set. */
static ssize_t
replace(size_t page, int fd, const struct range *range, off_t offset)
{
    uint8_t *memory = (uint8_t *)(uintptr_t)range->start;
    size_t bytes = range->end - range->start;
    ssize_t same = 0;
    uint8_t *image = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, offset);
    if (image == MAP_FAILED)
        return -1;
    for (size_t at = 0; at < bytes; at += page)
        if (memcmp(image + at, memory + at, page) != 0)
            memcpy(image + at, memory + at, page);
        else
            same++;
    if (mremap(image, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, memory) == MAP_FAILED) {
        int error = errno;
        munmap(image, bytes);
        errno = error;
        return -1;
    }
    return same;
}

static int
write_all(int fd, const void *bytes, size_t count, off_t offset)
{
    while (count) {
        ssize_t written = pwrite(fd, bytes, count, offset);
        if (written < 0)
            return -1;
        bytes = (const uint8_t *)bytes + written;
        count -= (size_t)written;
        offset += written;
    }
    return 0;
}

/* Range by range, so that no more than one of them is in memory twice. After a failure the image
 * backs some memory here, so nothing is published again. */
static ssize_t
publish(struct work *work, int fd)
{
    ssize_t pages = 0, same;
    off_t offset = HEADER_BYTES;
    struct stat file;
    if (find_ranges(work) < 0 || fstat(fd, &file) < 0)
        return -1;
    if (file.st_size) {
        errno = EEXIST;
        return -1;
    }
    for (uint64_t i = 0; i < work->header.count; i++) {
        const struct range *range = &work->header.ranges[i];
        size_t bytes = range->end - range->start;
        if (offset + (off_t)bytes > MOST_IMAGE_BYTES) {
            errno = EFBIG;
            return -1;
        }
        if (write_all(fd, (const void *)(uintptr_t)range->start, bytes, offset) < 0 ||
            (same = replace(work->page, fd, range, offset)) < 0)
            return -1;
        pages += same;
        offset += (off_t)bytes;
    }
    if (write_all(fd, &work->header, sizeof work->header, 0) < 0 ||
        fcntl(fd, F_ADD_SEALS, SEALS) < 0)
        return -1;
    return pages;
}

static ssize_t
adopt(struct work *work, int fd)
{
    ssize_t pages = 0, same;
    off_t offset = HEADER_BYTES;
    if (pread(fd, &work->header, sizeof work->header, 0) != sizeof work->header ||
        work->header.count > MOST_RANGES)
        return -1;
    for (uint64_t i = 0; i < work->header.count; i++) {
        const struct range *range = &work->header.ranges[i];
        if (is_replaceable(work, range)) {
            if ((same = replace(work->page, fd, range, offset)) < 0)
                return -1;
            pages += same;
        }
        offset += (off_t)(range->end - range->start);
    }
    return pages;
}

/* Returns the number of pages, or -1 with errno set. */
static ssize_t
share(int fd, bool publishes)
{
    struct stat tasks;
    int seals = fcntl(fd, F_GET_SEALS);
    ssize_t pages = -1;
    if (seals < 0)
        return -1;
    bool complete = (seals & SEALS) == SEALS;
    /* Two links, and one for each thread: fs/proc/base.c, proc_task_getattr. */
    if (stat("/proc/self/task", &tasks) < 0)
        return -1;
    if ((!complete && !publishes) || tasks.st_nlink != 3) {
        errno = EAGAIN;
        return -1;
    }
#ifdef __GLIBC__
    (void)malloc_trim(0); /* what requests have read */
#endif
    struct work *work =
        mmap(NULL, sizeof *work, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (work == MAP_FAILED)
        return -1;
    work->page = (size_t)sysconf(_SC_PAGESIZE);
    if (find_regions(work) == 0)
        pages = complete ? adopt(work, fd) : publish(work, fd);
    int error = errno;
    munmap(work, sizeof *work);
    errno = error;
    return pages;
}

static PyObject *
py_share_pages(PyObject *Py_UNUSED(module), PyObject *args)
{
    int fd, publishes;
    sigset_t all, before;
    if (!PyArg_ParseTuple(args, "ip:share_pages", &fd, &publishes))
        return NULL;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    ssize_t pages = share(fd, publishes);
    int error = errno;
    sigprocmask(SIG_SETMASK, &before, NULL);
    errno = error;
    return pages < 0 ? native_raise(NULL, NULL) : PyLong_FromSsize_t(pages);
}

PyMethodDef native_image_methods[] = {
    {"share_pages", py_share_pages, METH_VARARGS,
     "share_pages($module, image, publishes, /)\n--\n\n"
     "Map the image in place of memory with the same content."},
    {NULL, NULL, 0, NULL},
};
