/* A standby: a container that is ready, and whose bot another container still runs.
 *
 * The worker writes `standby/go`, which the bot cannot write: `<word> <restored>`. The word is this container's alone.
 * The second part says whether the worker has laid a state to begin with, which is known only now. The dead-man's switch
 * counts meanwhile, and a lease that was given away never comes back to a standby.
 *
 * It polls: a host has few watches of inotify for its root, and all standbys would share them.
 */

#include "init.h"

#include <poll.h>
#include <string.h>
#include <time.h>

#define LOOK (SECOND / 200)
#define LOOK_AT_LEASE (SECOND / 5)
/* Longer than the usual grace period of the container that it replaces. */
#define LONGEST (60 * SECOND)

static bool is_told(const char *path, struct spec *spec) {
    char text[128];
    size_t length = strlen(spec->standby);
    if (read_file(path, text, sizeof text) < 0) return false;
    if (strncmp(text, spec->standby, length) || text[length] != ' ') return false;
    spec->state_restored = text[length + 1] == '1';
    return true;
}

bool stand_by(struct spec *spec, struct lease *lease, int signals) {
    char path[PATH_BYTES];
    struct pollfd stopped = {signals, POLLIN, 0};
    nanoseconds look_at = 0, until = clock_now(CLOCK_MONOTONIC) + LONGEST;
    join(path, spec->base, "standby/go");
    for (;;) {
        bool told = is_told(path, spec);
        nanoseconds now = clock_now(CLOCK_MONOTONIC);
        if (spec->keepalive_ttl >= 0 && (told || now >= look_at)) {
            look_at = now + LOOK_AT_LEASE;
            look_at_lease(lease);
            if (lease->final || clock_now(CLOCK_BOOTTIME) >= lease->deadline - TERM_BEFORE_DEADLINE) return false;
        }
        if (told) return true;
        if (now >= until || ppoll(&stopped, 1, &(struct timespec){0, LOOK}, NULL) > 0) return false;
    }
}
