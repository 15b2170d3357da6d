/* The connections of a pod's init with workers: frames that are encrypted and authenticated with the key of the attempt.
 *
 * A side begins with 16 random bytes. A frame is the size of its text (4 bytes, big-endian), a tag of 16 bytes, and the
 * text. Its nonce is the sender's random bytes and the number of the frame; the context that the tag covers is the size,
 * the direction and the receiver's random bytes. So a frame counts once, in its order, on its connection.
 *
 * The init sends nothing but its random bytes before a worker has proven the key. The bot can connect, and proves
 * nothing. Of several workers, the one that proved the key last has the link.
 */

#include "init.h"

#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define RANDOM 16
#define TAG 16
#define PREFIX (4 + TAG)
#define PROOF_SECONDS 5
#define FIRST_FRAME 256
#define TO_INIT 1
#define TO_WORKER 2

void seal(char *out, char tag[TAG], const char *text, size_t size, const char *about, size_t about_size,
          const char nonce[24], const unsigned char key[32]);
bool unseal(char *out, const char tag[TAG], const char *text, size_t size, const char *about, size_t about_size,
            const char nonce[24], const unsigned char key[32]);

bool listen_link(struct link *link, int port) {
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port), .sin6_addr = in6addr_any};
    struct sockaddr_in older = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    for (int i = 0; i < PEERS; i++) link->peers[i].socket = -1;
    link->worker = NULL;
    int yes = 1, no = 0;
    link->listener = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    setsockopt(link->listener, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
    setsockopt(link->listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (link->listener >= 0 && !bind(link->listener, (void *)&address, sizeof address)) {
        return !listen(link->listener, PEERS);
    }
    if (link->listener >= 0) close(link->listener);
    link->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    setsockopt(link->listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    return link->listener >= 0 && !bind(link->listener, (void *)&older, sizeof older) && !listen(link->listener, PEERS);
}

void drop_peer(struct link *link, struct peer *peer) {
    if (peer->socket >= 0) close(peer->socket);
    peer->socket = -1;
    if (link->worker == peer) link->worker = NULL;
}

void accept_peers(struct link *link) {
    int socket;
    while ((socket = accept4(link->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
        struct peer *place = NULL;
        /* The oldest without a proof makes room: a bot that connects all the time keeps no worker out for long. */
        for (int i = 0; i < PEERS; i++) {
            struct peer *peer = &link->peers[i];
            if (peer == link->worker) continue;
            if (!place || peer->socket < 0 || (place->socket >= 0 && peer->since < place->since)) place = peer;
        }
        drop_peer(link, place);
        memset(place, 0, sizeof *place);
        place->socket = socket;
        place->since = clock_now(CLOCK_BOOTTIME);
        int yes = 1;
        setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        if (getrandom(place->own, RANDOM, 0) != RANDOM) {
            drop_peer(link, place);
            continue;
        }
        memcpy(place->output, place->own, RANDOM);
        place->output_end = RANDOM;
    }
}

static void make_nonce(char nonce[24], const char random[RANDOM], uint64_t number) {
    number = htobe64(number);
    memcpy(nonce, random, RANDOM);
    memcpy(nonce + RANDOM, &number, 8);
}

static size_t make_context(char context[32], uint32_t size, char direction, const char receiver[RANDOM]) {
    size = htobe32(size);
    memcpy(context, &size, 4);
    context[4] = direction;
    memcpy(context + 5, receiver, RANDOM);
    return 5 + RANDOM;
}

bool can_send(const struct peer *peer) { return peer && peer->output_begin == peer->output_end; }

void send_frame(struct link *link, struct peer *peer, const char *text, size_t size) {
    char nonce[24], context[32];
    char *frame = peer->output + peer->output_end;
    if (sizeof peer->output - peer->output_end < PREFIX + size) {
        drop_peer(link, peer);
        return;
    }
    uint32_t length = htobe32((uint32_t)size);
    memcpy(frame, &length, 4);
    make_nonce(nonce, peer->own, peer->sent++);
    size_t about = make_context(context, (uint32_t)size, TO_WORKER, peer->other);
    seal(frame + PREFIX, frame + 4, text, size, context, about, nonce, link->key);
    peer->output_end += PREFIX + size;
}

void flush_peer(struct link *link, struct peer *peer) {
    ssize_t sent = send(peer->socket, peer->output + peer->output_begin, peer->output_end - peer->output_begin, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN && errno != EINTR) {
        drop_peer(link, peer);
    } else if (sent > 0) {
        peer->output_begin += (size_t)sent;
        if (peer->output_begin == peer->output_end) peer->output_begin = peer->output_end = 0;
    }
}

/* Take one frame out of what was received; false when it is incomplete, or the peer was dropped. */
static bool next_frame(struct link *link, struct peer *peer, const char **text, size_t *size) {
    static char opened[FRAME_BYTES];
    char nonce[24], context[32], *input = peer->input + peer->input_begin;
    size_t have = peer->input_end - peer->input_begin;
    if (!peer->greeted) {
        if (have < RANDOM) return false;
        memcpy(peer->other, input, RANDOM);
        peer->greeted = true;
        peer->input_begin += RANDOM;
        return next_frame(link, peer, text, size);
    }
    uint32_t length;
    if (have < PREFIX) return false;
    memcpy(&length, input, 4);
    length = be32toh(length);
    if (length == 0 || length > FRAME_BYTES || (!peer->received && length > FIRST_FRAME)) {
        drop_peer(link, peer);
        return false;
    }
    if (have < PREFIX + length) return false;
    make_nonce(nonce, peer->other, peer->received);
    size_t about = make_context(context, length, TO_INIT, peer->own);
    if (!unseal(opened, input + 4, input + PREFIX, length, context, about, nonce, link->key)) {
        drop_peer(link, peer);
        return false;
    }
    peer->received++;
    peer->input_begin += PREFIX + length;
    *text = opened;
    *size = length;
    return true;
}

void read_peer(struct link *link, struct peer *peer, void (*take)(struct peer *, const char *, size_t)) {
    if (peer->input_begin) {
        memmove(peer->input, peer->input + peer->input_begin, peer->input_end - peer->input_begin);
        peer->input_end -= peer->input_begin;
        peer->input_begin = 0;
    }
    ssize_t length = recv(peer->socket, peer->input + peer->input_end, sizeof peer->input - peer->input_end, 0);
    if (length == 0 || (length < 0 && errno != EAGAIN && errno != EINTR)) {
        drop_peer(link, peer);
        return;
    }
    if (length > 0) peer->input_end += (size_t)length;
    const char *text;
    size_t size;
    while (peer->socket >= 0 && next_frame(link, peer, &text, &size)) take(peer, text, size);
}

void drop_unproven(struct link *link) {
    nanoseconds now = clock_now(CLOCK_BOOTTIME);
    for (int i = 0; i < PEERS; i++) {
        struct peer *peer = &link->peers[i];
        if (peer->socket >= 0 && peer != link->worker && now - peer->since > PROOF_SECONDS * SECOND) drop_peer(link, peer);
    }
}
