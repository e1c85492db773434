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
#define BLANKS " \t\v\f"

/* Whether a line gives an address the name: not its first word, and no comment. */
static bool
line_has(char *line, const char *name)
{
    char *rest;
    line[strcspn(line, "#")] = '\0';
    if (!strtok_r(line, BLANKS, &rest))
        return false;
    for (const char *word; (word = strtok_r(NULL, BLANKS, &rest));)
        if (!strcmp(word, name))
            return true;
    return false;
}

static bool
has_name(const char *text, const char *name)
{
    char *copy = strdup(text), *rest = copy;
    bool found = false;
    for (char *line; copy && !found && (line = strsep(&rest, "\n\r"));)
        found = line_has(line, name);
    free(copy);
    return found;
}

/* Append a file from its beginning to a text. Returns false if it cannot be read. */
static bool
append_file(FILE *text, int file)
{
    char part[1024];
    off_t done = 0;
    ssize_t count;
    while ((count = pread(file, part, sizeof part, done)) > 0) {
        (void)fwrite(part, 1, (size_t)count, text);
        done += count;
    }
    return count == 0;
}

/* Open the file that is to be covered and append it, or the default where it is missing. Returns
 * false where nothing is to be covered: it is no readable regular file, or cannot be made. With
 * `keep` a missing file is not made: it would stay in the upper. */
static bool
append_hosts(FILE *text, struct covered_hosts *hosts, const char *place, bool must_exist,
             mode_t *mode)
{
    struct stat st;
    hosts->below = open(place, O_PATH | O_CLOEXEC);
    if (hosts->below < 0) {
        if (errno != ENOENT || must_exist)
            return false;
        *mode = 0644;
        return fputs(DEFAULT_HOSTS, text) >= 0;
    }
    /* open(2) of a FIFO waits for a writer. */
    if (fstat(hosts->below, &st) < 0 || !S_ISREG(st.st_mode))
        return false;
    int file = open(place, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return false;
    *mode = st.st_mode & 0777;
    bool whole = append_file(text, file);
    close(file);
    return whole;
}

/* Append a line with the name, unless the text, whose buffer is `contents`, has it. */
static void
append_name(FILE *text, struct covered_hosts *hosts, const char *hostname)
{
    (void)fflush(text);
    if (!*hostname || has_name(hosts->contents, hostname))
        return;
    if (hosts->size && hosts->contents[hosts->size - 1] != '\n')
        (void)fputc('\n', text);
    hosts->line_size = (size_t)fprintf(text, "127.0.0.1 %s\n", hostname);
}

int
hosts_cover(struct covered_hosts *hosts, const char *hostname, const char *lines, bool keep)
{
    char place[PATH_MAX];
    struct statvfs root;
    mode_t mode;
    *hosts = (struct covered_hosts){.cover = -1, .below = -1, .lines_size = strlen(lines)};
    FILE *text = open_memstream(&hosts->contents, &hosts->size);
    if (!text || real_path("/etc/hosts", place) < 0 || statvfs("/", &root) < 0)
        return fail("HOSTS", "/etc/hosts");
    bool read_only = root.f_flag & ST_RDONLY;
    /* The first line with a name counts. */
    (void)fputs(lines, text);
    bool found = append_hosts(text, hosts, place, read_only || (keep && !*lines), &mode);
    if (found)
        append_name(text, hosts, hostname);
    bool failed = ferror(text) || fclose(text) != 0;
    if (!found)
        return *lines ? fail_with("HOSTS", EINVAL, place) : 0;
    if (!failed && !hosts->line_size && !*lines)
        return 0;
    if (!failed)
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
    char *now = NULL;
    FILE *text = open_memstream(&now, &size);
    if (!text || !append_file(text, hosts->cover) || fclose(text) != 0 ||
        (size == hosts->size && !memcmp(now, hosts->contents, size)))
        return;
    const char *line = hosts->contents + hosts->size - hosts->line_size;
    size = without(now, size, line, hosts->line_size);
    size = without(now, size, hosts->contents, hosts->lines_size);
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", hosts->below);
    int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file >= 0 && write_whole(file, now, size) == 0)
        (void)!ftruncate(file, (off_t)size);
}
