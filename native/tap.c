/* An interface of the view's network that waits for its first packet: the program that carries it
 * (helper.c) costs more than the start of a view, which may never send one. */
#include "supervisor.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    MTU = 65520,           /* as pasta and slirp4netns have it */
    ROOM = 1 << 16,        /* for the longest frame */
    MOST_FRAMES = 32,      /* that are kept */
    SILENCE = 20,          /* milliseconds, after which the first packets are complete */
    CARRIER_INTERVAL = 5,  /* milliseconds between looks at the interface */
    MOST_INTERVALS = 1000, /* then the packets are lost, and sent again by those who need them */
};

#define ETHERNET {2, 0, 0, 0, 0, 1} /* of the gateway, so that nothing has to ask for it */

static char frames[2 * ROOM];
static size_t sizes[MOST_FRAMES], count;

static void
set_address(struct sockaddr *to, const char *address)
{
    struct sockaddr_in *four = (struct sockaddr_in *)to;
    *four = (struct sockaddr_in){.sin_family = AF_INET};
    (void)inet_pton(AF_INET, address, &four->sin_addr);
}

/* Give the interface its address and its way out, by a socket of its network. */
static bool
configure(int inet, const char *const interface[3])
{
    const char *name = interface[0], *address = interface[1], *gateway = interface[2];
    struct ifreq own = {.ifr_mtu = MTU}, mask = own, flags = own, mtu = own;
    struct arpreq neighbour = {.arp_flags = ATF_PERM | ATF_COM, .arp_ha.sa_data = ETHERNET};
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
    struct ifreq *named[] = {&own, &mask, &flags, &mtu};
    for (size_t at = 0; at < sizeof named / sizeof *named; at++)
        (void)snprintf(named[at]->ifr_name, IFNAMSIZ, "%s", name);
    (void)snprintf(neighbour.arp_dev, sizeof neighbour.arp_dev, "%s", name);
    neighbour.arp_ha.sa_family = ARPHRD_ETHER;
    flags.ifr_flags = IFF_UP | IFF_MULTICAST;
    set_address(&own.ifr_addr, address);
    set_address(&mask.ifr_netmask, "255.255.255.0");
    set_address(&neighbour.arp_pa, gateway);
    set_address(&route.rt_gateway, gateway);
    set_address(&route.rt_dst, "0.0.0.0");
    set_address(&route.rt_genmask, "0.0.0.0");
    return ioctl(inet, SIOCSIFMTU, &mtu) == 0 && ioctl(inet, SIOCSIFADDR, &own) == 0 &&
           ioctl(inet, SIOCSIFNETMASK, &mask) == 0 && ioctl(inet, SIOCSIFFLAGS, &flags) == 0 &&
           ioctl(inet, SIOCSARP, &neighbour) == 0 &&
           (ioctl(inet, SIOCADDRT, &route) == 0 || errno == EEXIST); /* of an earlier command */
}

int
tap_make(const char *const interface[3])
{
    struct ifreq made = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    int tap = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    int inet = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    (void)snprintf(made.ifr_name, IFNAMSIZ, "%s", interface[0]);
    /* It stays until its network ends, and other programs may open it. */
    bool works = tap >= 0 && inet >= 0 && ioctl(tap, TUNSETIFF, &made) == 0 &&
                 ioctl(tap, TUNSETPERSIST, 1) == 0 && configure(inet, interface);
    if (!works) {
        close_keeping_errno(tap);
        tap = -1;
    }
    close_keeping_errno(inet);
    return tap;
}

void
tap_await(int tap)
{
    struct pollfd watched = {.fd = tap, .events = POLLIN};
    size_t used = 0;
    while (count < MOST_FRAMES && sizeof frames - used >= ROOM) {
        int ready = poll(&watched, 1, count ? SILENCE : -1);
        ssize_t size = ready > 0 ? read(tap, frames + used, ROOM) : 0;
        if (ready == 0 || size < 0)
            break;
        /* The kernel's own: neighbours and routers of IPv6 are asked for as soon as it is up. */
        if (size == 0 || frames[used] & 1)
            continue;
        sizes[count++] = (size_t)size;
        used += (size_t)size;
    }
    close(tap);
}

/* Made only where it is needed: its end waits for a grace period of the kernel (packet_release). */
int
tap_packets(const char *interface)
{
    struct sockaddr_ll device = {.sll_family = AF_PACKET,
                                 .sll_ifindex = (int)if_nametoindex(interface)};
    int packets = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0); /* receives none */
    if (packets >= 0 && bind(packets, (struct sockaddr *)&device, sizeof device) < 0) {
        close_keeping_errno(packets);
        packets = -1;
    }
    return packets;
}

/* Say whose the source of the first packet is: slirp4netns sends nothing to an address before. */
static void
announce_address(int packets)
{
    char frame[42] = {[12] = 8, 6, 0, 1, 8, 0, 6, 4, 0, 1}; /* RFC 826 */
    const char *ethernet = frames + 6, *source = frames + 26;
    memset(frame, '\xff', 6);
    memcpy(frame + 6, ethernet, 6);
    memcpy(frame + 22, ethernet, 6);
    memcpy(frame + 28, source, 4);
    memcpy(frame + 38, source, 4);
    (void)send(packets, frame, sizeof frame, MSG_NOSIGNAL);
}

void
tap_resume(int packets, const char *interface)
{
    struct ifreq request = {.ifr_flags = 0};
    const char *frame = frames;
    (void)snprintf(request.ifr_name, IFNAMSIZ, "%s", interface);
    for (int at = 0; at < MOST_INTERVALS; at++) {
        if (ioctl(packets, SIOCGIFFLAGS, &request) < 0 || request.ifr_flags & IFF_RUNNING)
            break;
        (void)poll(NULL, 0, CARRIER_INTERVAL);
    }
    if (count)
        announce_address(packets);
    for (size_t at = 0; at < count; frame += sizes[at++])
        (void)send(packets, frame, sizes[at], MSG_NOSIGNAL);
}
