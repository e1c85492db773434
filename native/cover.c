/* Files of a view that files in memory cover, as other launchers do it: nothing is written into an
 * upper. One of them is /etc/hosts, so that programs find an address for the view's host name;
 * where the upper is kept, changes to it are written back after the command's end. */
#include "supervisor.h"

#include <sys/statvfs.h>

#define ATTACHED_AT "/run"

enum { BUFFER_BYTES = 65536 };

static const char file_path[] = ATTACHED_AT "/file";

#define DEFAULT_HOSTS "127.0.0.1 localhost\n::1 localhost\n"
#define BLANKS " \t\v\f"

/* ---- files in memory ------------------------------------------------------------------------ */

/* Make a file in memory, to be written to. Returns -1 with errno set.
 *
 * Before Linux 6.15 open_tree(2) clones no detached mount, so the file system of a new file is
 * attached, at a place of the view that is covered for a moment, while the file is cloned. */
static int memory_file(void)
{
    const unsigned long flags = MS_NOSUID | MS_NODEV;
    if (syscall(SYS_mount, "tmpfs", ATTACHED_AT, "tmpfs", flags, "mode=0755") < 0)
        return -1;
    return open(file_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
}

/* Its detached mount, with the MOUNT_ATTR_* `attributes`; another file can be made now. Returns -1
 * with errno set. */
static int memory_mount(uint64_t attributes)
{
    const struct mount_attr set = {.attr_set = attributes};
    int mount = mount_clone(file_path, attributes ? &set : NULL);
    if (mount >= 0 && syscall(SYS_umount2, ATTACHED_AT, MNT_DETACH) < 0) {
        close_keeping_errno(mount);
        return -1;
    }
    return mount;
}

static int write_all(int file, const char *bytes, size_t size)
{
    for (ssize_t count; size; bytes += count, size -= (size_t)count)
        if ((count = write(file, bytes, size)) < 0)
            return -1;
    return 0;
}

/* Write all that is read from a descriptor. Returns -1 with errno set. */
static int copy(int from, int to)
{
    static char buffer[BUFFER_BYTES];
    ssize_t count;
    while ((count = read(from, buffer, sizeof buffer)) != 0)
        if (count < 0 ? errno != EINTR : write_all(to, buffer, (size_t)count) < 0)
            return -1;
    return 0;
}

int copy_all(const struct plan *plan, const struct argument *arguments)
{
    int from = slot_descriptor(plan, &arguments[0]), to = slot_descriptor(plan, &arguments[1]);
    return copy(from, to) < 0 ? fail("DATA", arguments[2].bytes) : 0;
}

/* ---- covered files --------------------------------------------------------------------------- */

/* Whether a line gives an address the name: it is not the first word, and in no comment. */
static bool has_name(const char *text, const char *name)
{
    char *copy = strdup(text), *rest = copy, *words;
    bool found = false;
    for (char *line; copy && !found && (line = strsep(&rest, "\n\r"));) {
        line[strcspn(line, "#")] = '\0';
        const char *word = strtok_r(line, BLANKS, &words);
        while (word && !found && (word = strtok_r(NULL, BLANKS, &words)))
            found = !strcmp(word, name);
    }
    free(copy);
    return found;
}

/* Append a file from its beginning to a text, and close it. Returns false if it cannot be read. */
static bool append_file(FILE *text, int file)
{
    char part[1024];
    off_t done = 0;
    ssize_t count;
    while ((count = pread(file, part, sizeof part, done)) > 0) {
        (void)fwrite(part, 1, (size_t)count, text);
        done += count;
    }
    close(file);
    return count == 0;
}

/* Append a line with the name, unless the text, whose buffer is `contents`, has it. */
static void append_name(FILE *text, struct covered_hosts *hosts, const char *hostname)
{
    (void)fflush(text);
    if (!*hostname || has_name(hosts->contents, hostname))
        return;
    if (hosts->size && hosts->contents[hosts->size - 1] != '\n')
        (void)fputc('\n', text);
    hosts->line_size = (size_t)fprintf(text, "127.0.0.1 %s\n", hostname);
}

/* What may be covered, and how. */
struct place {
    const char *path;
    int file; /* O_PATH */
    bool possible, missing, read_only;
    mode_t mode;
};

/* Look at the file that is to be covered. One that is missing is made with `makes`, if it can be:
 * its file system may be read-only. */
static struct place look_at(const char *path, bool makes)
{
    struct stat st;
    struct statvfs of_it;
    struct place place = {.path = path, .file = open_path(path, 0), .mode = 0644};
    place.missing = place.file < 0;
    if (place.missing && makes)
        place.file = open_place(path, false);
    place.possible =
        fstat(place.file, &st) == 0 && S_ISREG(st.st_mode) && fstatvfs(place.file, &of_it) == 0;
    place.read_only = place.possible && of_it.f_flag & ST_RDONLY;
    if (!place.missing && place.possible)
        place.mode = st.st_mode & 0777;
    return place;
}

static int open_again(int file, int flags)
{
    char link[sizeof "/proc/self/fd/" + 12];
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    return open(link, flags | O_CLOEXEC);
}

/* Mount a file in memory over a place. Returns a descriptor of it, or -1 with errno set. */
static int cover(const struct place *place, const char *contents, size_t size)
{
    int file = memory_file();
    if (file < 0 || write_all(file, contents, size) < 0 || fchmod(file, place->mode) < 0)
        return -1;
    int covering = open_again(file, O_RDONLY);
    close(file);
    int clone = memory_mount(place->read_only ? MOUNT_ATTR_RDONLY : 0);
    if (covering < 0 || clone < 0)
        return -1;
    return mount_attach(clone, place->path) < 0 ? -1 : covering;
}

int cover_file(const struct argument *arguments)
{
    uint64_t flags = arguments[2].number;
    struct place place = look_at(arguments[0].bytes, flags & PLAN_COVER_MAKE);
    if (!place.possible && !(flags & PLAN_COVER_REQUIRED))
        return 0;
    int file = cover(&place, arguments[1].bytes, arguments[1].length - 1);
    if (file < 0)
        return fail("DATA", arguments[0].bytes);
    close(file);
    return 0;
}

/* With `keep` a missing file is not made without need: it would stay in the upper. */
int hosts_cover(struct covered_hosts *hosts, const char *hostname, const char *lines, bool keep)
{
    struct place place = look_at("/etc/hosts", !keep || *lines);
    *hosts = (struct covered_hosts){.cover = -1, .below = -1, .lines_size = strlen(lines)};
    FILE *text = open_memstream(&hosts->contents, &hosts->size);
    if (!text)
        return fail("HOSTS", place.path);
    /* The first line with a name counts. */
    (void)fputs(lines, text);
    if (place.possible && place.missing)
        (void)fputs(DEFAULT_HOSTS, text);
    else
        place.possible = place.possible && append_file(text, open_again(place.file, O_RDONLY));
    if (place.possible)
        append_name(text, hosts, hostname);
    bool failed = ferror(text) || fclose(text) != 0;
    if (!place.possible)
        return *lines ? fail_with("HOSTS", EINVAL, "/etc/hosts") : 0;
    if (!failed && !place.missing && !hosts->line_size && !*lines)
        return 0;
    if (keep && !place.missing)
        hosts->below = place.file;
    if (!failed)
        hosts->cover = cover(&place, hosts->contents, hosts->size);
    return hosts->cover < 0 ? fail("HOSTS", place.path) : 0;
}

/* Remove a part of a text, if it is there; the new size. */
static size_t without(char *text, size_t size, const char *part, size_t part_size)
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
void hosts_write_back(const struct covered_hosts *hosts)
{
    size_t size;
    char *now = NULL;
    FILE *text = open_memstream(&now, &size);
    if (!text || !append_file(text, hosts->cover) || fclose(text) != 0 ||
        (size == hosts->size && !memcmp(now, hosts->contents, size)))
        return;
    const char *line = hosts->contents + hosts->size - hosts->line_size;
    size = without(now, size, line, hosts->line_size);
    size = without(now, size, hosts->contents, hosts->lines_size);
    int file = open_again(hosts->below, O_WRONLY);
    if (file >= 0 && write_all(file, now, size) == 0)
        (void)!ftruncate(file, (off_t)size);
}
