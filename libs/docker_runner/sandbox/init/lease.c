/* The dead-man's switch: how long the worker that started the container has proven to own the bot.
 *
 * The file says `<boot id> <deadline> <seconds left> <counter>`. Under the same kernel the deadline counts, by the clock
 * that /proc/uptime shows; otherwise a change counts, for the seconds left from when it is seen.
 *
 * A fifth word, `final`, says that the worker gives the segment away while its bots still stop: nothing extends that
 * deadline any more, and a container that starts now does not start its bot.
 */

#include "init.h"

#include <string.h>
#include <sys/stat.h>
#include <time.h>

static bool is_space(char sign) { return sign == ' ' || (sign >= '\t' && sign <= '\r'); }

/* Find the words of a text; return how many there are, which may be more than were asked for. */
static size_t split(const char *text, const char *words[], size_t lengths[], size_t most) {
    size_t count = 0;
    for (;;) {
        while (is_space(*text)) text++;
        if (!*text) return count;
        const char *begin = text;
        while (*text && !is_space(*text)) text++;
        if (count < most) {
            words[count] = begin;
            lengths[count] = (size_t)(text - begin);
        }
        count++;
    }
}

static void take(struct lease *lease, const char *content) {
    const char *words[5];
    size_t lengths[5];
    nanoseconds deadline, ttl, now = clock_now(CLOCK_BOOTTIME);
    size_t count = split(content, words, lengths, 5);
    bool final = count == 5 && lengths[4] == 5 && !memcmp(words[4], "final", 5);
    if (count != 4 && !final) return;
    if (!parse_seconds(words[1], lengths[1], &deadline) || !parse_seconds(words[2], lengths[2], &ttl)) return;
    bool first = !lease->seen[0];
    if (deadline == 0) {
        /* The worker gave the segment up. */
        lease->deadline = 0;
    } else if (lease->final) {
        /* What another owner is granted is not for this container. */
    } else if (final) {
        bool same = strlen(lease->boot_id) == lengths[0] && !memcmp(words[0], lease->boot_id, lengths[0]);
        lease->deadline = same && deadline < now + ttl ? deadline : now + ttl;
        lease->final = true;
    } else if (strlen(lease->boot_id) == lengths[0] && !memcmp(words[0], lease->boot_id, lengths[0])) {
        /* The first reading replaces the guess from the file's age; later ones never shorten what was proven. */
        nanoseconds proven = deadline < now + ttl ? deadline : now + ttl;
        if (first || proven > lease->deadline) lease->deadline = proven;
    } else if (!first) {
        lease->deadline = now + ttl;
    }
    strcpy(lease->seen, content);
}

void open_lease(struct lease *lease, const char *base, nanoseconds ttl) {
    join(lease->path, base, "keepalive/lease");
    lease->seen[0] = 0;
    lease->final = false;
    lease->deadline = clock_now(CLOCK_BOOTTIME) + ttl;
    const char *word;
    size_t length;
    char text[64];
    lease->boot_id[0] = 0;
    if (read_file("/proc/sys/kernel/random/boot_id", text, sizeof text) > 0 && split(text, &word, &length, 1) == 1) {
        memcpy(lease->boot_id, word, length);
        lease->boot_id[length] = 0;
    }
    char content[sizeof lease->seen];
    struct stat status;
    if (read_file(lease->path, content, sizeof content) < 0 || stat(lease->path, &status)) return;
    /* A start that the engine held back must not revive a lease that ran out meanwhile. */
    nanoseconds written = status.st_mtim.tv_sec * SECOND + status.st_mtim.tv_nsec;
    nanoseconds age = clock_now(CLOCK_REALTIME) - written;
    if (age > 0) lease->deadline -= age < ttl ? age : ttl;
    take(lease, content);
    if (lease->final) lease->deadline = 0;
}

void look_at_lease(struct lease *lease) {
    char content[sizeof lease->seen];
    if (read_file(lease->path, content, sizeof content) >= 0 && strcmp(content, lease->seen)) take(lease, content);
}
