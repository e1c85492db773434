/* Published ports: one thread, edge-triggered epoll, no buffer of its own for an idle connection.
 *
 * A TCP connection is two halves, one per direction. A half moves bytes through a pipe by
 * splice(2), without copying. It has the pipe only until the sink has taken all of it, and nothing
 * more is read until then (backpressure).
 *
 * A UDP listener keeps one connected socket per client, for replies to find their way back.
 */
#include "supervisor.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/queue.h>

enum {
    BUFFER_BYTES = 1 << 16,
    PIPE_BYTES = 1 << 20,
    MOST_IDLE_PIPES = 8,
    MOST_ASSOCIATIONS = 1024,   /* UDP clients of one port */
    IDLE_MILLISECONDS = 120000, /* of a UDP client, at least: RFC 4787, REQ-5 */
    ACCEPTS_AT_ONCE = 64,
    READS_AT_ONCE = 16,
    DATAGRAMS_AT_ONCE = 64,
};

#define END_EVENTS (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)

enum side { CLIENT, VIEW };

struct flow;

/* One socket of a flow. */
struct end {
    struct source source;
    struct flow *flow;
    int fd; /* -1: none; a UDP client has that of the listener */
};

/* One direction of a connection. */
struct half {
    int pipe[2]; /* -1 while there is nothing in it */
    size_t piped;
    bool readable; /* until the source has no more for now */
    bool ended;    /* the source has closed its side */
    bool closed;   /* so has the sink's */
};

/* Its whole size passes for the length of either kind. */
union address {
    struct sockaddr any;
    struct sockaddr_in four;
    struct sockaddr_in6 six;
};

/* The local address that a datagram was sent to, as recvmsg(2) gives and sendmsg(2) takes it. */
struct destination {
    union {
        struct cmsghdr header;
        uint8_t bytes[CMSG_SPACE(sizeof(struct in6_pktinfo))];
    } control;
    size_t length; /* 0: unknown */
};

/* A TCP connection, or what a UDP client sends and gets. */
struct flow {
    struct end ends[2];
    struct listener *listener;
    TAILQ_ENTRY(flow) others; /* of the same listener; or those that are dead */
    bool connected;           /* UDP: the view has answered */
    bool second_family;       /* 127.0.0.1 and ::1 are tried in turn */
    bool dead;
    struct half halves[2]; /* TCP: by the side that is read from */
    /* UDP: */
    union address client;
    struct destination destination;
    int64_t used;
};

struct listener {
    struct source source;
    struct listener *next;
    int fd;
    uint16_t port;
    int family, kind;
    bool paused;                   /* no descriptor was left for a connection */
    TAILQ_HEAD(flows, flow) flows; /* from the oldest on */
    size_t count;
};

static struct {
    bool draining;
    struct listener *listeners;
    struct flows dead;
    int idle_pipes[MOST_IDLE_PIPES][2];
    int idle_pipe_count;
    uint8_t buffer[BUFFER_BYTES];
} ports = {.dead = TAILQ_HEAD_INITIALIZER(ports.dead)};

static bool is_stream(const struct listener *listener) { return listener->kind == SOCK_STREAM; }

static union address loopback(bool six, uint16_t port)
{
    if (six)
        return (union address){.six = {.sin6_family = AF_INET6,
                                       .sin6_port = htons(port),
                                       .sin6_addr = IN6ADDR_LOOPBACK_INIT}};
    return (union address){.four = {.sin_family = AF_INET,
                                    .sin_port = htons(port),
                                    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}};
}

/* Pipes */

static bool take_pipe(int pipe[2])
{
    if (ports.idle_pipe_count) {
        memcpy(pipe, ports.idle_pipes[--ports.idle_pipe_count], sizeof ports.idle_pipes[0]);
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

static void give_pipe_back(struct half *half)
{
    if (half->pipe[0] < 0)
        return;
    if (!half->piped && ports.idle_pipe_count < MOST_IDLE_PIPES) {
        memcpy(ports.idle_pipes[ports.idle_pipe_count++], half->pipe, sizeof half->pipe);
    } else {
        close(half->pipe[0]);
        close(half->pipe[1]);
    }
    half->pipe[0] = half->pipe[1] = -1;
    half->piped = 0;
}

/* Flows */

static void resume_listeners(void);

static void reset_on_close(int fd)
{
    struct linger linger = {.l_onoff = 1, .l_linger = 0}; /* close(2) then sends RST: socket(7) */
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
}

static void close_flow(struct flow *flow, bool reset)
{
    if (flow->dead)
        return;
    flow->dead = true;
    for (int side = CLIENT; side <= VIEW; side++) {
        int fd = flow->ends[side].fd;
        if (fd >= 0 && reset)
            reset_on_close(fd);
        if (fd >= 0)
            close(fd);
        give_pipe_back(&flow->halves[side]);
    }
    TAILQ_REMOVE(&flow->listener->flows, flow, others);
    flow->listener->count--;
    /* Not freed yet: an event of it may still be in the caller's array. */
    TAILQ_INSERT_TAIL(&ports.dead, flow, others);
    resume_listeners();
}

static bool try_other_family(struct flow *flow);

/* Start to connect. Returns -1 with errno set. */
static int connect_to_view(struct flow *flow)
{
    const struct listener *listener = flow->listener;
    bool six = (listener->family == AF_INET6) != flow->second_family, stream = is_stream(listener);
    union address address = loopback(six, listener->port);
    struct end *end = &flow->ends[VIEW];
    int one = 1;
    end->fd = socket(address.any.sa_family, listener->kind | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (end->fd < 0)
        return -1;
    if (stream)
        (void)setsockopt(end->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    int result = connect(end->fd, &address.any, sizeof address);
    if (result < 0 && errno == ECONNREFUSED)
        return try_other_family(flow) ? 0 : -1;
    flow->connected = stream && result == 0;
    if (result < 0 && errno != EINPROGRESS)
        return -1;
    return watch(end->fd, &end->source, stream ? END_EVENTS : EPOLLIN);
}

/* Nothing of the view listens at this family's address. */
static bool try_other_family(struct flow *flow)
{
    if (flow->second_family)
        return false;
    flow->second_family = true;
    close(flow->ends[VIEW].fd);
    return connect_to_view(flow) == 0;
}

/* Start a flow of `client`, a socket that it takes over, or -1. Returns NULL with errno set. */
static struct flow *open_flow(struct listener *listener, int client,
                              void (*ready)(struct source *, uint32_t))
{
    struct flow *flow = calloc(1, sizeof *flow);
    if (!flow) {
        if (client >= 0) {
            reset_on_close(client);
            close(client);
        }
        return NULL;
    }
    flow->listener = listener;
    for (int side = CLIENT; side <= VIEW; side++) {
        flow->ends[side] = (struct end){{.ready = ready}, flow, side == CLIENT ? client : -1};
        flow->halves[side].pipe[0] = flow->halves[side].pipe[1] = -1;
    }
    TAILQ_INSERT_TAIL(&listener->flows, flow, others);
    listener->count++;
    if (connect_to_view(flow) == 0)
        return flow;
    int error = errno;
    close_flow(flow, true);
    errno = error;
    return NULL;
}

/* TCP */

/* Give the sink what it did not take before. 1: it has everything; 0: it takes no more for now; -1:
 * it is broken. */
static int flush(struct half *half, int sink)
{
    while (half->piped) {
        ssize_t moved =
            splice(half->pipe[0], NULL, sink, NULL, half->piped, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (moved < 0)
            return errno == EAGAIN ? 0 : -1;
        half->piped -= (size_t)moved;
    }
    give_pipe_back(half);
    return 1;
}

/* Read once from the source, and write. Returns as `flush`, 1 also where there was nothing to read.
 */
static int carry_once(struct half *half, int source, int sink)
{
    if (!take_pipe(half->pipe))
        return -1;
    ssize_t got =
        splice(source, NULL, half->pipe[1], NULL, PIPE_BYTES, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (got < 0 && errno != EAGAIN)
        return -1;
    half->piped = got > 0 ? (size_t)got : 0;
    half->ended = got == 0;
    half->readable = got >= 0;
    return flush(half, sink);
}

/* Move what one direction has. Returns false if the connection is broken. */
static bool carry(struct flow *flow, enum side from)
{
    struct half *half = &flow->halves[from];
    int source = flow->ends[from].fd;
    int sink = flow->ends[!from].fd;
    int state = flush(half, sink);
    for (int count = 0;
         state == 1 && half->readable && !half->ended && !(from == CLIENT && ports.draining);
         count++) {
        if (count == READS_AT_ONCE) /* the others first: a modified descriptor reports again */
            return watch(source, &flow->ends[from].source, END_EVENTS) == 0;
        state = carry_once(half, source, sink);
    }
    if (state < 0)
        return false;
    if (state == 1 && half->ended && !half->closed) {
        half->closed = true;
        if (shutdown(sink, SHUT_WR) < 0 && errno != ENOTCONN)
            return false;
    }
    return true;
}

static void advance(struct flow *flow)
{
    if (!carry(flow, CLIENT) || !carry(flow, VIEW)) {
        close_flow(flow, true);
        return;
    }
    bool client_done = flow->halves[CLIENT].closed || ports.draining;
    if (client_done && flow->halves[VIEW].closed)
        close_flow(flow, false);
}

static void view_connected(struct flow *flow)
{
    int error = 0;
    socklen_t length = sizeof error;
    if (getsockopt(flow->ends[VIEW].fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0)
        error = errno;
    if (!error)
        flow->connected = true;
    else if (error != ECONNREFUSED || !try_other_family(flow))
        close_flow(flow, true);
}

static void end_ready(struct source *source, uint32_t events)
{
    struct end *end = (struct end *)source;
    struct flow *flow = end->flow;
    enum side side = end == &flow->ends[CLIENT] ? CLIENT : VIEW;
    if (flow->dead)
        return;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        flow->halves[side].readable = true;
    if (!flow->connected && side == VIEW)
        view_connected(flow);
    if (flow->connected && !flow->dead)
        advance(flow);
}

static void start_connection(struct listener *listener, int client)
{
    struct flow *flow = open_flow(listener, client, end_ready);
    if (!flow)
        return;
    flow->halves[CLIENT].readable = true;
    if (watch(client, &flow->ends[CLIENT].source, END_EVENTS) < 0)
        close_flow(flow, true);
    else if (flow->connected)
        advance(flow);
}

static void pause_listener(struct listener *listener)
{
    listener->paused = true;
    unwatch(listener->fd);
}

static void resume_listeners(void)
{
    for (struct listener *listener = ports.listeners; listener; listener = listener->next)
        if (listener->paused && listener->fd >= 0 &&
            watch(listener->fd, &listener->source, EPOLLIN) == 0)
            listener->paused = false;
}

static void accept_ready(struct source *source, uint32_t events)
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
            if (ports_busy())
                pause_listener(listener);
        }
        if (errno != ECONNABORTED && errno != EINTR)
            return;
    }
}

/* UDP */

static void touch(struct flow *flow)
{
    flow->used = now_milliseconds();
    TAILQ_REMOVE(&flow->listener->flows, flow, others);
    TAILQ_INSERT_TAIL(&flow->listener->flows, flow, others);
}

static void answer_ready(struct source *source, uint32_t events)
{
    struct flow *flow = ((struct end *)source)->flow;
    struct listener *listener = flow->listener;
    (void)events;
    for (int count = 0; count < DATAGRAMS_AT_ONCE && !flow->dead; count++) {
        ssize_t got = recv(flow->ends[VIEW].fd, ports.buffer, sizeof ports.buffer, 0);
        if (got < 0 && errno == ECONNREFUSED) {
            /* Nothing listens. The client will send again; the other family may have a server then.
             */
            if (flow->connected || flow->second_family)
                continue;
            if (!try_other_family(flow))
                close_flow(flow, false);
            return;
        }
        if (got < 0)
            return;
        flow->connected = true;
        touch(flow);
        struct iovec bytes = {ports.buffer, (size_t)got};
        struct destination *known = &flow->destination;
        /* From the address that the client knows. */
        struct msghdr message = {.msg_name = &flow->client.any,
                                 .msg_namelen = sizeof flow->client,
                                 .msg_iov = &bytes,
                                 .msg_iovlen = 1,
                                 .msg_control = known->length ? &known->control : NULL,
                                 .msg_controllen = known->length};
        /* A datagram may be lost. */
        (void)sendmsg(listener->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
}

/* Close what was idle for too long; the timer runs while there is anything. */
static void expire(void)
{
    int64_t limit = now_milliseconds() - IDLE_MILLISECONDS;
    for (struct listener *listener = ports.listeners; listener; listener = listener->next) {
        struct flow *oldest;
        while (!is_stream(listener) && (oldest = TAILQ_FIRST(&listener->flows)) &&
               oldest->used <= limit)
            close_flow(oldest, false);
        if (!is_stream(listener) && listener->count)
            timer_set(TIMER_PORTS, IDLE_MILLISECONDS, expire);
    }
}

static struct flow *flow_of(struct listener *listener, const union address *client)
{
    struct flow *one;
    TAILQ_FOREACH_REVERSE(one, &listener->flows, flows, others)
    if (!memcmp(&one->client, client, sizeof *client))
        return one;
    if (listener->count >= MOST_ASSOCIATIONS)
        close_flow(TAILQ_FIRST(&listener->flows), false);
    struct flow *made = open_flow(listener, -1, answer_ready);
    if (!made && errno == EMFILE && listener->count) {
        close_flow(TAILQ_FIRST(&listener->flows), false);
        made = open_flow(listener, -1, answer_ready);
    }
    if (made)
        made->client = *client;
    if (made && !timer_is_set(TIMER_PORTS))
        timer_set(TIMER_PORTS, IDLE_MILLISECONDS, expire);
    return made;
}

static void datagram_ready(struct source *source, uint32_t events)
{
    struct listener *listener = (struct listener *)source;
    (void)events;
    for (int count = 0; count < DATAGRAMS_AT_ONCE && listener->fd >= 0; count++) {
        union address client;
        struct destination to;
        memset(&client, 0, sizeof client);
        struct iovec bytes = {ports.buffer, sizeof ports.buffer};
        struct msghdr message = {.msg_name = &client.any,
                                 .msg_namelen = sizeof client,
                                 .msg_iov = &bytes,
                                 .msg_iovlen = 1,
                                 .msg_control = &to.control,
                                 .msg_controllen = sizeof to.control};
        ssize_t got = recvmsg(listener->fd, &message, 0);
        if (got < 0)
            return;
        struct flow *flow = flow_of(listener, &client);
        if (!flow)
            continue;
        to.length = message.msg_controllen;
        if (to.length && to.control.header.cmsg_level == IPPROTO_IP) /* the routes say by which */
            ((struct in_pktinfo *)CMSG_DATA(&to.control.header))->ipi_ifindex = 0;
        flow->destination = to;
        touch(flow);
        (void)send(flow->ends[VIEW].fd, ports.buffer, (size_t)got, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
}

/* Ports */

int ports_add(int fd, uint16_t port)
{
    int kind, family;
    socklen_t length = sizeof kind;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &length) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length) < 0)
        return -1;
    struct listener *listener = calloc(1, sizeof *listener);
    if (!listener)
        return -1;
    *listener = (struct listener){.fd = fd, .port = port, .family = family, .kind = kind};
    TAILQ_INIT(&listener->flows);
    listener->source.ready = kind == SOCK_STREAM ? accept_ready : datagram_ready;
    if (watch(fd, &listener->source, EPOLLIN) < 0) {
        free(listener);
        return -1;
    }
    listener->next = ports.listeners;
    ports.listeners = listener;
    return 0;
}

void ports_drain(void)
{
    ports.draining = true;
    for (struct listener *listener = ports.listeners; listener; listener = listener->next) {
        close(listener->fd);
        listener->fd = -1;
        for (struct flow *one = TAILQ_FIRST(&listener->flows), *next; one; one = next) {
            next = TAILQ_NEXT(one, others);
            if (is_stream(listener) && one->connected)
                advance(one);
            else
                close_flow(one, is_stream(listener));
        }
    }
}

void ports_collect(void)
{
    for (struct flow *one; (one = TAILQ_FIRST(&ports.dead));) {
        TAILQ_REMOVE(&ports.dead, one, others);
        free(one);
    }
}

bool ports_busy(void)
{
    for (const struct listener *listener = ports.listeners; listener; listener = listener->next)
        if (is_stream(listener) && listener->count)
            return true;
    return false;
}
