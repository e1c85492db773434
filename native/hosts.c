/* The view's host name in its /etc/hosts, so that programs find an address for it.
 *
 * A file in memory is mounted over /etc/hosts, as other launchers do, and nothing is written into
 * an upper. Where the upper is kept, changes to the file are written back after the command's
 * end. */
#include "supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/mount.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEFAULT_HOSTS "127.0.0.1 localhost\n::1 localhost\n"
#define ADDRESS "127.0.0.1 "

enum { LONGEST_LINE = sizeof ADDRESS + 64 + 2 };

static bool
is_blank(char byte)
{
    return byte && strchr(" \t\v\f", byte);
}

/* Whether a line gives an address the name: not its first word, and no comment. */
static bool
line_has(const char *line, size_t size, const char *name)
{
    const char *end = memchr(line, '#', size), *at = line;
    size_t length = strlen(name);
    if (!end)
        end = line + size;
    for (bool first = true; at < end; first = false) {
        while (at < end && is_blank(*at))
            at++;
        const char *word = at;
        while (at < end && !is_blank(*at))
            at++;
        if (!first && (size_t)(at - word) == length && !memcmp(word, name, length))
            return true;
    }
    return false;
}

static bool
has_name(const char *text, size_t size, const char *name)
{
    const char *end = text + size;
    while (text < end) {
        const char *stop = text;
        while (stop < end && *stop != '\n' && *stop != '\r')
            stop++;
        if (line_has(text, (size_t)(stop - text), name))
            return true;
        text = stop + 1;
    }
    return false;
}

/* Read a file from its beginning, with room for `more` bytes. Returns NULL with errno set. */
static char *
read_whole(int file, size_t more, size_t *size)
{
    char *text = NULL;
    for (*size = 0;;) {
        char *longer = realloc(text, *size + BUFSIZ + more);
        ssize_t count = longer ? pread(file, longer + *size, BUFSIZ, (off_t)*size) : -1;
        if (longer)
            text = longer;
        if (count < 0) {
            free(text);
            return NULL;
        }
        if (count == 0)
            return text;
        *size += (size_t)count;
    }
}

/* Open the file that is to be covered and read it, or give the default where it is missing. Returns
 * false where nothing is to be covered: it is no readable regular file, or cannot be made. With
 * `keep` a missing file is not made: it would stay in the upper. */
static bool
read_hosts(struct covered_hosts *hosts, const char *place, bool must_exist, mode_t *mode)
{
    struct stat st;
    hosts->below = open(place, O_PATH | O_CLOEXEC);
    if (hosts->below < 0) {
        if (errno != ENOENT || must_exist)
            return false;
        hosts->size = sizeof DEFAULT_HOSTS - 1;
        hosts->contents = malloc(hosts->size + LONGEST_LINE);
        if (hosts->contents)
            memcpy(hosts->contents, DEFAULT_HOSTS, hosts->size);
        *mode = 0644;
        return hosts->contents;
    }
    /* open(2) of a FIFO waits for a writer. */
    if (fstat(hosts->below, &st) < 0 || !S_ISREG(st.st_mode))
        return false;
    int file = open(place, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return false;
    *mode = st.st_mode & 0777;
    hosts->contents = read_whole(file, LONGEST_LINE, &hosts->size);
    close(file);
    return hosts->contents;
}

/* Put `lines` before all others: the first line with a name counts. */
static int
add_lines(struct covered_hosts *hosts, const char *lines)
{
    size_t size = strlen(lines);
    char *contents = malloc(hosts->size + size + LONGEST_LINE);
    if (!contents)
        return -1;
    memcpy(contents, lines, size);
    memcpy(contents + size, hosts->contents, hosts->size);
    free(hosts->contents);
    hosts->contents = contents;
    hosts->size += size;
    hosts->lines_size = size;
    return 0;
}

static void
add_line(struct covered_hosts *hosts, const char *hostname)
{
    char *end = hosts->contents + hosts->size;
    if (hosts->size && end[-1] != '\n')
        *end++ = '\n';
    hosts->line = end;
    hosts->line_size = (size_t)snprintf(end, LONGEST_LINE - 1, ADDRESS "%s\n", hostname);
    hosts->size = (size_t)(end - hosts->contents) + hosts->line_size;
}

int
hosts_cover(struct covered_hosts *hosts, const char *hostname, const char *lines, bool keep)
{
    char place[PATH_MAX];
    struct statvfs root;
    mode_t mode;
    *hosts = (struct covered_hosts){.cover = -1, .below = -1};
    if (real_path("/etc/hosts", place) < 0 || statvfs("/", &root) < 0)
        return fail("HOSTS", "/etc/hosts");
    bool read_only = root.f_flag & ST_RDONLY;
    bool must_exist = keep || read_only;
    if (!read_hosts(hosts, place, must_exist && (read_only || !*lines), &mode))
        return *lines ? fail_with("HOSTS", EINVAL, place) : 0;
    if (add_lines(hosts, lines) < 0)
        return fail("HOSTS", place);
    bool named = !*hostname || has_name(hosts->contents, hosts->size, hostname);
    if (named && !*lines)
        return 0;
    if (!named)
        add_line(hosts, hostname);
    hosts->cover = memory_cover(hosts->contents, hosts->size, place, mode, read_only);
    return hosts->cover < 0 ? fail("HOSTS", place) : 0;
}

/* Remove a part of a text, if it is there; the new size. */
static size_t
without(char *text, size_t size, const char *part, size_t part_size)
{
    char *at = part_size ? memmem(text, size, part, part_size) : NULL;
    if (!at)
        return size;
    size -= part_size;
    memmove(at, at + part_size, size - (size_t)(at - text));
    return size;
}

/* Nothing can be reported: the status pipe is closed. It needs no capability. A mountpoint cannot
 * be replaced by rename(2), so the file is written in place and then truncated. */
void
hosts_write_back(const struct covered_hosts *hosts)
{
    char path[sizeof "/proc/self/fd/" + 12];
    size_t size;
    char *now = read_whole(hosts->cover, 0, &size);
    if (!now || (size == hosts->size && !memcmp(now, hosts->contents, size)))
        return;
    size = without(now, size, hosts->line, hosts->line_size);
    size = without(now, size, hosts->contents, hosts->lines_size);
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", hosts->below);
    int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file >= 0 && write_whole(file, now, size) == 0)
        (void)!ftruncate(file, (off_t)size);
}
