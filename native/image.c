/* Puts parts of a file in place of memory with nearly the same content, for the memory image of the
 * daemons of one fork server (fuse/image.py says which parts, and why).
 *
 * Memory keeps its content; only what backs it changes. Nothing may write to it while this runs:
 * signals are blocked, no other thread exists, and nothing here allocates.
 *
 * MADV_DONTNEED of such memory gives the image's content, not zeros. glibc and Python use it for
 * memory that they have free, and clear that themselves where it must be clear.
 */
#include "native.h"

#include <malloc.h>
#include <signal.h>
#include <sys/mman.h>

/* Put `bytes` of the file, from `offset` on, in place of memory, changed to what the memory holds.
 * Returns the number of pages that are the file's now, or -1 with errno set. */
static ssize_t replace(int fd, off_t offset, uint8_t *memory, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
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

/* Whether the file has all of the range, and the range is whole pages of memory. */
static bool is_whole(int fd, uint64_t offset, uint64_t start, uint64_t bytes)
{
    uint64_t in_page = (uint64_t)sysconf(_SC_PAGESIZE) - 1;
    struct stat file;
    if (fstat(fd, &file) < 0)
        return false;
    errno = EINVAL;
    return bytes && !((offset | start | bytes) & in_page) && offset <= (uint64_t)file.st_size &&
           bytes <= (uint64_t)file.st_size - offset &&
           msync((void *)(uintptr_t)start, bytes, MS_ASYNC) == 0; /* ENOMEM: a page is missing */
}

PyObject *py_replace_memory(PyObject *Py_UNUSED(module), PyObject *args)
{
    int fd;
    unsigned long long offset, start, bytes;
    sigset_t all, before;
    ssize_t pages = -1;
    if (!PyArg_ParseTuple(args, "iKKK", &fd, &offset, &start, &bytes))
        return NULL;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    if (is_whole(fd, offset, start, bytes))
        pages = replace(fd, (off_t)offset, (uint8_t *)(uintptr_t)start, (size_t)bytes);
    int error = errno;
    sigprocmask(SIG_SETMASK, &before, NULL);
    errno = error;
    return pages < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromSsize_t(pages);
}

PyObject *py_trim_memory(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    int here;
#ifdef __GLIBC__
    (void)malloc_trim(0);
#endif
    return Py_BuildValue("KK", (unsigned long long)(uintptr_t)&here,
                         (unsigned long long)(uintptr_t)&errno);
}
