/* Published ports: one thread, edge-triggered epoll, no buffer of its own for an idle connection.
 *
 * A TCP connection is two halves, one per direction. A half reads into a buffer that all share and
 * writes at once; only bytes that the sink does not take are kept, and nothing more is read until
 * they are gone (backpressure). A half that fills the shared buffer carries bulk data and moves
 * them by splice(2), without copying.
 *
 * A UDP listener keeps one connected socket per client, for replies to find their way back.
 */
#include "ports.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    BUFFER_BYTES = 1 << 16,
    PIPE_BYTES = 1 << 20,
    MOST_IDLE_PIPES = 8,
    MOST_ASSOCIATIONS = 1024,   /* UDP clients of one port */
    IDLE_MILLISECONDS = 120000, /* of a UDP client: RFC 4787, REQ-5 */
    ACCEPTS_AT_ONCE = 64,
    READS_AT_ONCE = 16,
    DATAGRAMS_AT_ONCE = 64,
};

#define END_EVENTS (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)

enum side { CLIENT, VIEW };

struct connection;

/* One socket of a connection. */
struct end {
    struct source source;
    struct connection *connection;
    int fd;
};

/* One direction of a connection. */
struct half {
    uint8_t *kept; /* bytes that the sink did not take */
    size_t start, stop;
    int pipe[2]; /* -1 while no bulk data are carried */
    size_t piped;
    bool readable; /* until the source has no more for now */
    bool hung_up;  /* end of file or an error comes after the last byte */
    bool ended;    /* the source has closed its side */
    bool closed;   /* so has the sink's */
};

struct connection {
    struct end ends[2];
    struct half halves[2]; /* by the side that is read from */
    struct listener *listener;
    struct connection *next, *previous;
    bool connected;
    bool second_family; /* 127.0.0.1 and ::1 are tried in turn */
    bool dead;
};

struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in four;
        struct sockaddr_in6 six;
    };
    socklen_t length;
};

/* The local address that a datagram was sent to, as recvmsg(2) gives and sendmsg(2) takes it. */
struct destination {
    union {
        struct cmsghdr header;
        uint8_t bytes[CMSG_SPACE(sizeof(struct in6_pktinfo))];
    } control;
    size_t length; /* 0: unknown */
};

struct association {
    struct source source;
    struct listener *listener;
    struct association *newer, *older; /* of the same listener */
    struct address client;
    struct destination destination;
    int64_t used;
    int fd;
    bool answered;
    bool second_family;
    bool dead;
};

struct listener {
    struct source source;
    struct ports *ports;
    struct listener *next;
    int fd;
    uint16_t port;
    int family;
    bool datagrams;
    bool paused; /* no descriptor was left for a connection */
    struct association *newest, *oldest;
    size_t associations;
};

struct ports {
    int epoll;
    bool draining;
    struct listener *listeners;
    struct connection *connections;
    struct connection *dead_connections;
    struct association *dead_associations;
    int idle_pipes[MOST_IDLE_PIPES][2];
    int idle_pipe_count;
    uint8_t buffer[BUFFER_BYTES];
};

int64_t
now_milliseconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static int
watch(const struct ports *ports, int fd, struct source *source, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = source};
    return epoll_ctl(ports->epoll, EPOLL_CTL_ADD, fd, &event);
}

static bool
watch_again(const struct ports *ports, int fd, struct source *source)
{
    struct epoll_event event = {.events = END_EVENTS, .data.ptr = source};
    return epoll_ctl(ports->epoll, EPOLL_CTL_MOD, fd, &event) == 0;
}

static struct address
loopback(int family, uint16_t port)
{
    struct address address;
    memset(&address, 0, sizeof address);
    if (family == AF_INET6) {
        address.six.sin6_family = AF_INET6;
        address.six.sin6_port = htons(port);
        address.six.sin6_addr = in6addr_loopback;
        address.length = sizeof address.six;
    } else {
        address.four.sin_family = AF_INET;
        address.four.sin_port = htons(port);
        address.four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address.length = sizeof address.four;
    }
    return address;
}

static int
other_family(int family)
{
    return family == AF_INET6 ? AF_INET : AF_INET6;
}

/* Pipes */

static bool
take_pipe(struct ports *ports, int pipe[2])
{
    if (ports->idle_pipe_count) {
        memcpy(pipe, ports->idle_pipes[--ports->idle_pipe_count], sizeof ports->idle_pipes[0]);
        return true;
    }
    if (pipe2(pipe, O_NONBLOCK | O_CLOEXEC) < 0) {
        pipe[0] = pipe[1] = -1;
        return false;
    }
    /* A limit of the user's may forbid it: pipe(7). */
    (void)fcntl(pipe[1], F_SETPIPE_SZ, PIPE_BYTES);
    return true;
}

static void
give_pipe_back(struct ports *ports, struct half *half)
{
    if (half->pipe[0] < 0)
        return;
    if (!half->piped && ports->idle_pipe_count < MOST_IDLE_PIPES) {
        memcpy(ports->idle_pipes[ports->idle_pipe_count++], half->pipe, sizeof half->pipe);
    } else {
        close(half->pipe[0]);
        close(half->pipe[1]);
    }
    half->pipe[0] = half->pipe[1] = -1;
    half->piped = 0;
}

/* Connections */

static void resume_listeners(struct ports *ports);

static void
reset_on_close(int fd)
{
    struct linger linger = {.l_onoff = 1, .l_linger = 0}; /* close(2) then sends RST: socket(7) */
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
}

static void
close_connection(struct connection *connection, bool reset)
{
    struct ports *ports = connection->listener->ports;
    if (connection->dead)
        return;
    connection->dead = true;
    for (int side = CLIENT; side <= VIEW; side++) {
        struct end *end = &connection->ends[side];
        if (end->fd >= 0) {
            if (reset)
                reset_on_close(end->fd);
            close(end->fd);
            end->fd = -1;
        }
        give_pipe_back(ports, &connection->halves[side]);
        free(connection->halves[side].kept);
    }
    if (connection->previous)
        connection->previous->next = connection->next;
    else
        ports->connections = connection->next;
    if (connection->next)
        connection->next->previous = connection->previous;
    /* Not freed yet: an event of it may still be in the caller's array. */
    connection->next = ports->dead_connections;
    ports->dead_connections = connection;
    resume_listeners(ports);
}

static bool
keep(struct half *half, const uint8_t *bytes, size_t count)
{
    half->kept = malloc(count);
    if (!half->kept)
        return false;
    memcpy(half->kept, bytes, count);
    half->start = 0;
    half->stop = count;
    return true;
}

/* Give the sink what it did not take before. 1: it has everything; 0: it takes no more for now; -1:
 * it is broken. */
static int
flush(struct half *half, int sink)
{
    while (half->start < half->stop) {
        ssize_t sent = send(sink, half->kept + half->start, half->stop - half->start, MSG_NOSIGNAL);
        if (sent < 0)
            return errno == EAGAIN ? 0 : -1;
        half->start += (size_t)sent;
    }
    free(half->kept);
    half->kept = NULL;
    half->start = half->stop = 0;
    while (half->piped) {
        ssize_t moved =
            splice(half->pipe[0], NULL, sink, NULL, half->piped, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (moved < 0)
            return errno == EAGAIN ? 0 : -1;
        half->piped -= (size_t)moved;
    }
    return 1;
}

/* Read once from the source, and write. Returns as `flush`, 1 also where there was nothing to read.
 */
static int
carry_once(struct ports *ports, struct half *half, int source, int sink)
{
    ssize_t got;
    if (half->pipe[0] >= 0) {
        got = splice(source, NULL, half->pipe[1], NULL, PIPE_BYTES,
                     SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (got > 0) {
            half->piped = (size_t)got;
            if (got < BUFFER_BYTES) { /* no bulk data any more */
                int state = flush(half, sink);
                if (state == 1)
                    give_pipe_back(ports, half);
                return state;
            }
            return flush(half, sink);
        }
    } else {
        got = recv(source, ports->buffer, sizeof ports->buffer, 0);
        if (got > 0) {
            ssize_t sent = send(sink, ports->buffer, (size_t)got, MSG_NOSIGNAL);
            if (sent < 0) {
                if (errno != EAGAIN)
                    return -1;
                sent = 0;
            }
            if (sent < got)
                return keep(half, ports->buffer + sent, (size_t)(got - sent)) ? 0 : -1;
            if (got == (ssize_t)sizeof ports->buffer)
                (void)take_pipe(ports, half->pipe);
            else if (!half->hung_up)
                half->readable = false; /* a stream that gave less has no more: epoll(7) */
            return 1;
        }
    }
    if (got == 0) {
        half->ended = true;
        return 1;
    }
    if (errno != EAGAIN)
        return -1;
    half->readable = false;
    return 1;
}

/* Move what one direction has. Returns false if the connection is broken. */
static bool
carry(struct connection *connection, enum side from)
{
    struct ports *ports = connection->listener->ports;
    struct half *half = &connection->halves[from];
    int source = connection->ends[from].fd;
    int sink = connection->ends[!from].fd;
    int state = flush(half, sink);
    for (int count = 0;
         state == 1 && half->readable && !half->ended && !(from == CLIENT && ports->draining);
         count++) {
        if (count == READS_AT_ONCE) /* the others first: a modified descriptor reports again */
            return watch_again(ports, source, &connection->ends[from].source);
        state = carry_once(ports, half, source, sink);
    }
    if (state < 0)
        return false;
    if (state == 1 && half->ended && !half->closed) {
        half->closed = true;
        give_pipe_back(ports, half);
        if (shutdown(sink, SHUT_WR) < 0 && errno != ENOTCONN)
            return false;
    }
    return true;
}

static void
advance(struct connection *connection)
{
    if (!carry(connection, CLIENT) || !carry(connection, VIEW)) {
        close_connection(connection, true);
        return;
    }
    bool client_done = connection->halves[CLIENT].closed || connection->listener->ports->draining;
    if (client_done && connection->halves[VIEW].closed)
        close_connection(connection, false);
}

static int connect_to_view(struct connection *connection);

static void
view_connected(struct connection *connection)
{
    int error = 0;
    socklen_t length = sizeof error;
    if (getsockopt(connection->ends[VIEW].fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0)
        error = errno;
    if (!error) {
        connection->connected = true;
        return;
    }
    close(connection->ends[VIEW].fd);
    connection->ends[VIEW].fd = -1;
    if (connection->second_family || error != ECONNREFUSED) {
        close_connection(connection, true);
        return;
    }
    connection->second_family = true;
    if (connect_to_view(connection) < 0)
        close_connection(connection, true);
}

static void
end_ready(struct source *source, uint32_t events)
{
    struct end *end = (struct end *)source;
    struct connection *connection = end->connection;
    enum side side = end == &connection->ends[CLIENT] ? CLIENT : VIEW;
    if (connection->dead)
        return;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        connection->halves[side].readable = true;
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        connection->halves[side].hung_up = true;
    if (!connection->connected && side == VIEW)
        view_connected(connection);
    if (connection->connected && !connection->dead)
        advance(connection);
}

/* Start to connect. Returns -1 with errno set. */
static int
connect_to_view(struct connection *connection)
{
    const struct listener *listener = connection->listener;
    int family = connection->second_family ? other_family(listener->family) : listener->family;
    struct address address = loopback(family, listener->port);
    struct end *end = &connection->ends[VIEW];
    int one = 1;
    end->fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (end->fd < 0)
        return -1;
    (void)setsockopt(end->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(end->fd, &address.any, address.length) == 0)
        connection->connected = true;
    else if (errno == ECONNREFUSED && !connection->second_family) {
        close(end->fd);
        end->fd = -1;
        connection->second_family = true;
        return connect_to_view(connection);
    } else if (errno != EINPROGRESS)
        return -1;
    return watch(listener->ports, end->fd, &end->source, END_EVENTS);
}

static void
start_connection(struct listener *listener, int client)
{
    struct ports *ports = listener->ports;
    struct connection *connection = calloc(1, sizeof *connection);
    if (!connection) {
        reset_on_close(client);
        close(client);
        return;
    }
    connection->listener = listener;
    for (int side = CLIENT; side <= VIEW; side++) {
        connection->ends[side] = (struct end){{.ready = end_ready}, connection, -1};
        connection->halves[side].pipe[0] = connection->halves[side].pipe[1] = -1;
    }
    connection->ends[CLIENT].fd = client;
    connection->halves[CLIENT].readable = true;
    connection->next = ports->connections;
    if (connection->next)
        connection->next->previous = connection;
    ports->connections = connection;
    if (connect_to_view(connection) < 0 ||
        watch(ports, client, &connection->ends[CLIENT].source, END_EVENTS) < 0)
        close_connection(connection, true);
    else if (connection->connected)
        advance(connection);
}

/* Listeners */

static void
pause_listener(struct listener *listener)
{
    listener->paused = true;
    (void)epoll_ctl(listener->ports->epoll, EPOLL_CTL_DEL, listener->fd, NULL);
}

static void
resume_listeners(struct ports *ports)
{
    for (struct listener *listener = ports->listeners; listener; listener = listener->next)
        if (listener->paused && listener->fd >= 0 &&
            watch(ports, listener->fd, &listener->source, EPOLLIN) == 0)
            listener->paused = false;
}

static void
accept_ready(struct source *source, uint32_t events)
{
    struct listener *listener = (struct listener *)source;
    (void)events;
    for (int count = 0; count < ACCEPTS_AT_ONCE && listener->fd >= 0 && !listener->paused;
         count++) {
        int client = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (client >= 0) {
            start_connection(listener, client);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            /* The clients wait in the backlog for a connection to close; without any there is
             * nothing to wait for. */
            if (listener->ports->connections)
                pause_listener(listener);
        }
        if (errno != ECONNABORTED && errno != EINTR)
            return;
    }
}

/* UDP */

static void
unlist(struct association *association)
{
    struct listener *listener = association->listener;
    if (association->newer)
        association->newer->older = association->older;
    else
        listener->newest = association->older;
    if (association->older)
        association->older->newer = association->newer;
    else
        listener->oldest = association->newer;
}

static void
list_as_newest(struct association *association)
{
    struct listener *listener = association->listener;
    association->newer = NULL;
    association->older = listener->newest;
    if (listener->newest)
        listener->newest->newer = association;
    else
        listener->oldest = association;
    listener->newest = association;
}

static void
touch(struct association *association)
{
    association->used = now_milliseconds();
    if (association->newer) {
        unlist(association);
        list_as_newest(association);
    }
}

static void
close_association(struct association *association)
{
    struct listener *listener = association->listener;
    unlist(association);
    listener->associations--;
    close(association->fd);
    association->dead = true;
    association->newer = NULL;
    association->older = listener->ports->dead_associations;
    listener->ports->dead_associations = association;
}

static int open_association(struct association *association);

static void
answer_ready(struct source *source, uint32_t events)
{
    struct association *association = (struct association *)source;
    struct listener *listener = association->listener;
    struct ports *ports = listener->ports;
    (void)events;
    for (int count = 0; count < DATAGRAMS_AT_ONCE && !association->dead; count++) {
        ssize_t got = recv(association->fd, ports->buffer, sizeof ports->buffer, 0);
        if (got < 0 && errno == ECONNREFUSED) {
            /* Nothing listens. The client will send again; the other family may have a server then.
             */
            if (!association->answered && !association->second_family) {
                close(association->fd);
                association->second_family = true;
                if (open_association(association) < 0)
                    close_association(association);
                return;
            }
            continue;
        }
        if (got < 0)
            return;
        association->answered = true;
        touch(association);
        struct iovec bytes = {ports->buffer, (size_t)got};
        struct destination *known = &association->destination;
        /* From the address that the client knows. */
        struct msghdr message = {.msg_name = &association->client.any,
                                 .msg_namelen = association->client.length,
                                 .msg_iov = &bytes,
                                 .msg_iovlen = 1,
                                 .msg_control = known->length ? &known->control : NULL,
                                 .msg_controllen = known->length};
        /* A datagram may be lost. */
        (void)sendmsg(listener->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
}

static int
open_association(struct association *association)
{
    const struct listener *listener = association->listener;
    int family = association->second_family ? other_family(listener->family) : listener->family;
    struct address address = loopback(family, listener->port);
    association->fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (association->fd < 0)
        return -1;
    if (connect(association->fd, &address.any, address.length) < 0 ||
        watch(listener->ports, association->fd, &association->source, EPOLLIN) < 0) {
        int error = errno;
        close(association->fd);
        association->fd = -1;
        errno = error;
        return -1;
    }
    return 0;
}

static struct association *
association_of(struct listener *listener, const struct address *client)
{
    for (struct association *one = listener->newest; one; one = one->older)
        if (one->client.length == client->length &&
            !memcmp(&one->client.any, &client->any, client->length))
            return one;
    if (listener->associations >= MOST_ASSOCIATIONS)
        close_association(listener->oldest);
    struct association *made = calloc(1, sizeof *made);
    if (!made)
        return NULL;
    made->source.ready = answer_ready;
    made->listener = listener;
    made->client = *client;
    if (open_association(made) < 0 && errno == EMFILE && listener->oldest) {
        close_association(listener->oldest);
        (void)open_association(made);
    }
    if (made->fd < 0) {
        free(made);
        return NULL;
    }
    list_as_newest(made);
    listener->associations++;
    return made;
}

/* Keep the control message of a datagram for the answers. The interface is left to the routes. */
static void
note_destination(struct destination *destination, const struct msghdr *message)
{
    const struct cmsghdr *header = CMSG_FIRSTHDR(message);
    if (!header || message->msg_controllen > sizeof destination->control)
        return;
    memcpy(&destination->control, header, message->msg_controllen);
    destination->length = message->msg_controllen;
    if (header->cmsg_level == IPPROTO_IP && header->cmsg_type == IP_PKTINFO) {
        struct in_pktinfo four;
        memcpy(&four, CMSG_DATA(header), sizeof four);
        four.ipi_ifindex = 0;
        memcpy(CMSG_DATA(&destination->control.header), &four, sizeof four);
    }
}

static void
datagram_ready(struct source *source, uint32_t events)
{
    struct listener *listener = (struct listener *)source;
    struct ports *ports = listener->ports;
    (void)events;
    for (int count = 0; count < DATAGRAMS_AT_ONCE && listener->fd >= 0; count++) {
        struct address client;
        uint8_t control[CMSG_SPACE(sizeof(struct in6_pktinfo))] __attribute__((aligned(8)));
        memset(&client, 0, sizeof client);
        struct iovec bytes = {ports->buffer, sizeof ports->buffer};
        struct msghdr message = {.msg_name = &client.any,
                                 .msg_namelen = sizeof client.six,
                                 .msg_iov = &bytes,
                                 .msg_iovlen = 1,
                                 .msg_control = control,
                                 .msg_controllen = sizeof control};
        ssize_t got = recvmsg(listener->fd, &message, 0);
        if (got < 0)
            return;
        client.length = message.msg_namelen;
        struct association *association = association_of(listener, &client);
        if (!association)
            continue;
        note_destination(&association->destination, &message);
        touch(association);
        (void)send(association->fd, ports->buffer, (size_t)got, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
}

/* Ports */

struct ports *
ports_new(int epoll)
{
    struct ports *ports = calloc(1, sizeof *ports);
    if (ports)
        ports->epoll = epoll;
    return ports;
}

int
ports_add(struct ports *ports, int fd, uint16_t port)
{
    int kind, one = 1;
    struct address address;
    socklen_t length = sizeof kind;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &length) < 0)
        return -1;
    memset(&address, 0, sizeof address);
    address.length = sizeof address.six;
    if (getsockname(fd, &address.any, &address.length) < 0)
        return -1;
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return -1;
    struct listener *listener = calloc(1, sizeof *listener);
    if (!listener)
        return -1;
    listener->ports = ports;
    listener->fd = fd;
    listener->port = port;
    listener->family = address.any.sa_family;
    listener->datagrams = kind == SOCK_DGRAM;
    if (listener->datagrams) {
        listener->source.ready = datagram_ready;
        if (listener->family == AF_INET6)
            (void)setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &one, sizeof one);
        else
            (void)setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof one);
    } else {
        listener->source.ready = accept_ready;
        /* Accepted sockets inherit it. */
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    if (watch(ports, fd, &listener->source, EPOLLIN) < 0) {
        free(listener);
        return -1;
    }
    listener->next = ports->listeners;
    ports->listeners = listener;
    return 0;
}

void
ports_drain(struct ports *ports)
{
    ports->draining = true;
    for (struct listener *listener = ports->listeners; listener; listener = listener->next) {
        while (listener->oldest)
            close_association(listener->oldest);
        if (listener->fd >= 0)
            close(listener->fd);
        listener->fd = -1;
    }
    for (struct connection *one = ports->connections, *next; one; one = next) {
        next = one->next;
        if (one->connected)
            advance(one);
        else
            close_connection(one, true);
    }
}

void
ports_collect(struct ports *ports)
{
    while (ports->dead_connections) {
        struct connection *one = ports->dead_connections;
        ports->dead_connections = one->next;
        free(one);
    }
    while (ports->dead_associations) {
        struct association *one = ports->dead_associations;
        ports->dead_associations = one->older;
        free(one);
    }
}

bool
ports_busy(const struct ports *ports)
{
    return ports->connections != NULL;
}

int
ports_timeout(const struct ports *ports)
{
    int64_t first = -1;
    for (const struct listener *listener = ports->listeners; listener; listener = listener->next)
        if (listener->oldest && (first < 0 || listener->oldest->used < first))
            first = listener->oldest->used;
    if (first < 0)
        return -1;
    int64_t left = first + IDLE_MILLISECONDS - now_milliseconds();
    return left < 0 ? 0 : (int)left;
}

void
ports_expire(struct ports *ports)
{
    int64_t limit = now_milliseconds() - IDLE_MILLISECONDS;
    for (struct listener *listener = ports->listeners; listener; listener = listener->next)
        while (listener->oldest && listener->oldest->used <= limit)
            close_association(listener->oldest);
}
