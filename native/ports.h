/* Published ports: carries bytes between sockets of the host and sockets of a view. */
#ifndef OVERLAYKIT_PORTS_H
#define OVERLAYKIT_PORTS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

/* What an event of the caller's epoll instance belongs to: the first member of each object that is
 * registered there. `act` is called without `ready`, of a source that is the only one of its kind.
 */
struct source {
    void (*ready)(struct source *source, uint32_t events);
    void (*act)(void);
};

struct ports;

/* The monotonic clock, in milliseconds. */
int64_t now_milliseconds(void);

/* Ports that report to the epoll instance `epoll`. NULL with errno set on failure. */
struct ports *ports_new(int epoll);

/* Forward a listening TCP socket or a bound UDP socket to `port` of this network namespace. Takes
 * `listener` over. Returns 0, or -1 with errno set. */
int ports_add(struct ports *ports, int listener, uint16_t port);

/* Accept nothing more and read nothing more from clients. What the view has sent is still
 * delivered. */
void ports_drain(struct ports *ports);

/* Free the connections that closed. Call it after the events of one epoll_wait were handled. */
void ports_collect(struct ports *ports);

/* Whether a connection is open. */
bool ports_busy(const struct ports *ports);

/* Milliseconds until `ports_expire` has work, -1 for none. */
int ports_timeout(const struct ports *ports);

/* Close UDP associations that were idle for too long. */
void ports_expire(struct ports *ports);

#endif
