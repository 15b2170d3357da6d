/* What the worker learns of a container: what the kernel counted, and at the end what the bot left.
 *
 * The file is made by the worker, if it wants to know. Its first line is a JSON object, padded so that a later one
 * replaces it whole; the payload follows.
 */

#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define HEAD_BYTES 512
#define GROUP "/sys/fs/cgroup/"

int outcome_file = -1;

/* The last number of the line that begins with `key`, or of the first line; -1 when there is none. */
static int64_t number_in(const char *path, const char *key) {
    static char text[16384];
    if (read_file(path, text, sizeof text) < 0) return -1;
    for (char *line = text, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        if (!end) end = line + strlen(line);
        size_t name = key ? strlen(key) : 0;
        if (!key || (!strncmp(line, key, name) && line[name] == ' ')) {
            char *word = end;
            while (word > line && word[-1] != ' ') word--;
            int64_t value;
            return parse_integer(word, (size_t)(end - word), &value) ? value : -1;
        }
        if (!*end) break;
    }
    return -1;
}

/* Control groups v1, then v2. */
static int64_t counted(const char *first, const char *first_key, const char *second, const char *second_key) {
    int64_t value = number_in(first, first_key);
    return value >= 0 ? value : number_in(second, second_key);
}

int64_t peak_memory_bytes(void) {
    return counted(GROUP "memory/memory.max_usage_in_bytes", NULL, GROUP "memory.peak", NULL);
}

/* Bytes in and out over all network cards but the loopback. */
static void traffic(int64_t *received, int64_t *sent) {
    static char text[16384];
    *received = *sent = -1;
    if (read_file("/proc/net/dev", text, sizeof text) < 0) return;
    *received = *sent = 0;
    int number = 0;
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        if (number++ < 2) continue;
        *end = 0;
        while (*line == ' ') line++;
        char *colon = strchr(line, ':');
        long long in, out;
        if (!colon || (colon - line == 2 && !memcmp(line, "lo", 2))) continue;
        if (sscanf(colon + 1, "%lld %*s %*s %*s %*s %*s %*s %*s %lld", &in, &out) != 2) {
            *received = *sent = -1;
            return;
        }
        *received += in;
        *sent += out;
    }
}

static int add(char *text, size_t size, const char *name, int64_t value) {
    if (value < 0) return snprintf(text, size, ", \"%s\": null", name);
    return snprintf(text, size, ", \"%s\": %lld", name, (long long)value);
}

/* The first line; return its length. */
static size_t head(char *text, size_t size, const struct ending *ending) {
    int64_t received, sent, cpu = number_in(GROUP "cpuacct/cpuacct.usage", NULL);
    if (cpu < 0 && (cpu = number_in(GROUP "cpu.stat", "usage_usec")) >= 0) cpu *= 1000;
    traffic(&received, &sent);
    const struct {
        const char *name;
        int64_t value;
    } numbers[] = {
        {"memory_bytes", counted(GROUP "memory/memory.usage_in_bytes", NULL, GROUP "memory.current", NULL)},
        {"inactive_bytes", counted(GROUP "memory/memory.stat", "total_inactive_file", GROUP "memory.stat", "inactive_file")},
        {"peak_memory_bytes", peak_memory_bytes()},
        {"memory_limit_bytes", counted(GROUP "memory/memory.limit_in_bytes", NULL, GROUP "memory.max", NULL)},
        {"oom_kills", counted(GROUP "memory/memory.oom_control", "oom_kill", GROUP "memory.events", "oom_kill")},
        {"pids", counted(GROUP "pids/pids.current", NULL, GROUP "pids.current", NULL)},
        {"received_bytes", received},
        {"sent_bytes", sent},
    };
    int length = snprintf(text, size, "{\"reason\": \"%s\", \"kind\": \"%s\"", ending->reason, ending->kind);
    if (*ending->failure) length += snprintf(text + length, size - (size_t)length, ", \"failure\": %s", ending->failure);
    if (cpu < 0) {
        length += snprintf(text + length, size - (size_t)length, ", \"cpu_seconds\": null");
    } else {
        length += snprintf(text + length, size - (size_t)length, ", \"cpu_seconds\": %lld.%06lld",
                           (long long)(cpu / SECOND), (long long)(cpu % SECOND / 1000));
    }
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        length += add(text + length, size - (size_t)length, numbers[i].name, numbers[i].value);
    }
    text[length++] = '}';
    while (length < HEAD_BYTES - 1) text[length++] = ' ';
    text[length++] = '\n';
    return (size_t)length;
}

bool write_outcome(const char *base, const struct ending *ending, bool final) {
    /* A note and the numbers have 3.5 KiB together. */
    static char text[8192];
    static char buffer[CHUNK_BYTES];
    char path[PATH_BYTES];
    join(path, base, "private/outcome");
    int file = outcome_file;
    if (file < 0) {
        file = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK | (final ? O_TRUNC : 0));
    } else if (lseek(file, 0, SEEK_SET) || (final && ftruncate(file, 0))) {
        return false;
    }
    if (file < 0) {
        if (errno == ENOENT) return true;
        complain("the outcome cannot be written", strerror(errno));
        return false;
    }
    bool written = write_all(file, text, head(text, sizeof text, ending));
    ssize_t length;
    for (off_t at = 0; written && ending->payload >= 0; at += length) {
        length = pread(ending->payload, buffer, sizeof buffer, at);
        if (length <= 0) break;
        written = write_all(file, buffer, (size_t)length);
    }
    if (!written) complain("the outcome cannot be written", strerror(errno));
    if (file != outcome_file) close(file);
    return written;
}
