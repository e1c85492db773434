/* What a detached command prints: its two streams, a record for each line in one file.
 *
 *     2026-11-26T22:52:07.012345678Z stdout F a line
 *
 * as Kubernetes and podman write it (k8s-file); the letter is P where the line goes on in the next
 * record. A file that would exceed its limit is renamed to NAME.1, in place of the one before. A
 * disk that takes no more loses records and does not hold the command up. */
#include "supervisor.h"

#include <time.h>

enum {
    LONGEST_LINE = 16384, /* bytes; longer ones have several records */
    LONGEST_HEAD = 64,
    LONGEST_NAME = 64,
    READS_AT_ONCE = 16, /* then other events have their turn */
};

struct stream {
    struct source source;
    const char *tag;
    int from; /* the read end of a pipe; -1 after its end */
    size_t held;
    char line[LONGEST_LINE];
};

static struct {
    int directory, file;
    char name[LONGEST_NAME], old[LONGEST_NAME + 2];
    uint64_t size, limit;
    bool at_once;
    struct stream streams[2];
} logs;

static void open_file(void)
{
    struct stat st;
    int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW;
    logs.file = openat(logs.directory, logs.name, flags, 0600);
    logs.size = logs.file >= 0 && fstat(logs.file, &st) == 0 ? (uint64_t)st.st_size : 0;
}

static void rotate(void)
{
    if (logs.file >= 0)
        close(logs.file);
    (void)renameat(logs.directory, logs.name, logs.directory, logs.old);
    open_file();
}

/* Write the head of a record: the time, the stream, and whether the line ends in it. Returns its
 * length; 0 if the time is unknown. */
static size_t format_head(char head[LONGEST_HEAD], const char *tag, bool whole)
{
    struct timespec now;
    struct tm parts;
    clock_gettime(CLOCK_REALTIME, &now);
    if (!gmtime_r(&now.tv_sec, &parts))
        return 0;
    size_t count = strftime(head, LONGEST_HEAD, "%Y-%m-%dT%H:%M:%S", &parts);
    return count + (size_t)snprintf(head + count, LONGEST_HEAD - count, ".%09ldZ %s %c ",
                                    now.tv_nsec, tag, whole ? 'F' : 'P');
}

/* Write a record of `count` bytes of a line. */
static void write_record(struct stream *stream, size_t count, bool whole)
{
    static char record[LONGEST_HEAD + LONGEST_LINE + 1];
    size_t head = format_head(record, stream->tag, whole);
    if (!head)
        return;
    memcpy(record + head, stream->line, count);
    record[head + count] = '\n';
    size_t length = head + count + 1;
    if (logs.file < 0)
        open_file();
    if (logs.size && logs.size + length > logs.limit)
        rotate();
    ssize_t written = logs.file < 0 ? -1 : write(logs.file, record, length);
    if (written < 0)
        return;
    logs.size += (uint64_t)written;
    /* Half a record would be read as one: end it. */
    if ((size_t)written < length && write(logs.file, "\n", 1) == 1)
        logs.size++;
}

static void write_lines(struct stream *stream)
{
    char *end;
    while ((end = memchr(stream->line, '\n', stream->held))) {
        size_t count = (size_t)(end - stream->line);
        write_record(stream, count, true);
        stream->held -= count + 1;
        memmove(stream->line, end + 1, stream->held);
    }
    if (stream->held == LONGEST_LINE || (stream->held && logs.at_once)) {
        write_record(stream, stream->held, false);
        stream->held = 0;
    }
}

static void end_stream(struct stream *stream)
{
    if (stream->held)
        write_record(stream, stream->held, false);
    stream->held = 0;
    unwatch(stream->from);
    close(stream->from);
    stream->from = -1;
}

/* Take what has come. Returns false if nothing has. */
static bool take(struct stream *stream)
{
    ssize_t count = read(stream->from, stream->line + stream->held, LONGEST_LINE - stream->held);
    if (count > 0) {
        stream->held += (size_t)count;
        write_lines(stream);
        return true;
    }
    if (count == 0)
        end_stream(stream);
    return count < 0 && errno == EINTR;
}

static void stream_ready(struct source *source, uint32_t events)
{
    struct stream *stream = (struct stream *)source; /* its first member */
    (void)events;
    for (int reads = 0; stream->from >= 0 && reads < READS_AT_ONCE && take(stream); reads++)
        continue;
}

int logs_open(const int *pipes, int directory, const char *name, uint64_t limit, bool at_once)
{
    static const char *const tags[] = {"stdout", "stderr"};
    logs.directory = directory;
    logs.limit = limit;
    logs.at_once = at_once;
    (void)snprintf(logs.name, sizeof logs.name, "%s", name);
    (void)snprintf(logs.old, sizeof logs.old, "%s.1", logs.name);
    open_file();
    if (logs.file < 0)
        return -1;
    /* Opened again for the first record: until the view runs, others are closed. */
    close(logs.file);
    logs.file = -1;
    for (int at = 0; at < 2; at++) {
        struct stream *stream = &logs.streams[at];
        *stream =
            (struct stream){.source = {.ready = stream_ready}, .tag = tags[at], .from = pipes[at]};
        if (fcntl(pipes[at], F_SETFL, O_NONBLOCK) < 0 ||
            watch(pipes[at], &stream->source, EPOLLIN) < 0)
            return -1;
    }
    return 0;
}

void logs_finish(void)
{
    for (int at = 0; at < 2; at++) {
        struct stream *stream = &logs.streams[at];
        while (stream->from >= 0 && take(stream))
            continue;
        if (stream->from >= 0)
            end_stream(stream);
    }
    if (logs.file >= 0)
        close(logs.file);
    logs.file = -1;
}

void logs_redirect(int descriptor)
{
    char head[LONGEST_HEAD];
    size_t count = format_head(head, logs.streams[1].tag, true);
    open_file();
    if (logs.file < 0)
        return;
    if (write(logs.file, head, count) == (ssize_t)count)
        (void)dup2(logs.file, descriptor);
    close(logs.file);
    logs.file = -1;
}
