/* The output of a pod's bot that its worker has not stored: records in a file without a name, the oldest dropped first.
 *
 * A record is a header of 12 bytes (nanoseconds since 1970, then the size with the stream in its highest bit; both
 * big-endian) and the bytes. An offset counts the bytes of all records since the start.
 */

#include "init.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define HEADER 12
#define ERRORS_BIT 0x80000000u

static bool at(struct ring *ring, uint64_t offset, char *data, size_t size, bool writing) {
    while (size) {
        off_t place = (off_t)(offset % RING_BYTES);
        size_t length = RING_BYTES - (size_t)place;
        if (length > size) length = size;
        ssize_t moved = writing ? pwrite(ring->file, data, length, place) : pread(ring->file, data, length, place);
        if (moved < 0 && errno == EINTR) continue;
        if (moved <= 0) return false;
        offset += (uint64_t)moved;
        data += moved;
        size -= (size_t)moved;
    }
    return true;
}

bool open_ring(struct ring *ring, const char *folder) {
    ring->begin = ring->end = 0;
    ring->newest = 0;
    ring->file = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    return ring->file >= 0;
}

static bool drop_oldest(struct ring *ring) {
    char header[HEADER];
    uint32_t size;
    if (!at(ring, ring->begin, header, HEADER, false)) return false;
    memcpy(&size, header + 8, 4);
    ring->begin += HEADER + (be32toh(size) & ~ERRORS_BIT);
    return ring->begin <= ring->end;
}

void add_record(struct ring *ring, bool errors, char *data, size_t size) {
    char header[HEADER];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t time = (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
    /* Times never decrease, so that a reader can continue from one. */
    if (time <= ring->newest) time = ring->newest + 1;
    ring->newest = time;
    uint64_t stamp = htobe64(time);
    uint32_t kind = htobe32((uint32_t)size | (errors ? ERRORS_BIT : 0));
    memcpy(header, &stamp, 8);
    memcpy(header + 8, &kind, 4);
    while (ring->end + HEADER + size - ring->begin > RING_BYTES) {
        if (!drop_oldest(ring)) ring->begin = ring->end;
    }
    /* A disk that is full loses output; the bot is not to die of that. */
    if (!at(ring, ring->end, header, HEADER, true) || !at(ring, ring->end + HEADER, data, size, true)) return;
    ring->end += HEADER + size;
}

size_t read_ring(struct ring *ring, uint64_t *offset, char *data, size_t most) {
    if (*offset < ring->begin || *offset > ring->end) *offset = ring->begin;
    size_t size = ring->end - *offset < most ? (size_t)(ring->end - *offset) : most;
    return at(ring, *offset, data, size, false) ? size : 0;
}

void release_ring(struct ring *ring, uint64_t offset) {
    while (ring->begin < offset && ring->begin < ring->end) {
        if (!drop_oldest(ring)) return;
    }
}
