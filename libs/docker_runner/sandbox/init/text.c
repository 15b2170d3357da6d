/* Small things: clocks, files, numbers. */

#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MOST_SECONDS (60LL * 366 * 86400)

nanoseconds clock_now(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * SECOND + now.tv_nsec;
}

void join(char path[PATH_BYTES], const char *folder, const char *name) {
    size_t first = strlen(folder), second = strlen(name);
    if (first + second + 2 > PATH_BYTES) {
        complain("the path of the base is too long", folder);
        _exit(1);
    }
    memcpy(path, folder, first);
    path[first] = '/';
    memcpy(path + first + 1, name, second + 1);
}

ssize_t read_file(const char *path, char *buffer, size_t size) {
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (file < 0) return -1;
    size_t length = 0;
    ssize_t taken = 0;
    while (length < size - 1 && (taken = read(file, buffer + length, size - 1 - length)) > 0) length += (size_t)taken;
    close(file);
    buffer[length] = 0;
    return taken < 0 ? -1 : (ssize_t)length;
}

bool parse_integer(const char *text, size_t length, int64_t *value) {
    /* Nineteen digits fit into 64 bits without a sign; a control group without a limit shows that many. */
    if (length == 0 || length > 19) return false;
    uint64_t number = 0;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        number = number * 10 + (uint64_t)(text[i] - '0');
    }
    if (number > INT64_MAX) return false;
    *value = (int64_t)number;
    return true;
}

bool parse_seconds(const char *text, size_t length, nanoseconds *value) {
    const char *point = memchr(text, '.', length);
    size_t whole = point ? (size_t)(point - text) : length;
    int64_t seconds, fraction = 0;
    if (!parse_integer(text, whole, &seconds)) return false;
    if (point) {
        size_t digits = length - whole - 1;
        if (digits == 0) return false;
        for (size_t i = 0; i < digits; i++) {
            if (point[1 + i] < '0' || point[1 + i] > '9') return false;
        }
        for (size_t i = 0; i < 9; i++) fraction = fraction * 10 + (i < digits ? point[1 + i] - '0' : 0);
    }
    *value = (seconds > MOST_SECONDS ? MOST_SECONDS : seconds) * SECOND + fraction;
    return true;
}

bool write_all(int descriptor, const char *data, size_t size) {
    while (size) {
        ssize_t written = write(descriptor, data, size);
        if (written < 0) {
            if (errno == EINTR) continue;
            return false;
        }
        data += written;
        size -= (size_t)written;
    }
    return true;
}

void complain(const char *what, const char *why) {
    char line[1024];
    size_t length = 0;
    const char *parts[] = {what, why ? ": " : "", why ? why : "", "\n"};
    for (size_t i = 0; i < 4; i++) {
        size_t size = strlen(parts[i]);
        if (size > sizeof line - 1 - length) size = sizeof line - 1 - length;
        memcpy(line + length, parts[i], size);
        length += size;
    }
    write_all(2, line, length);
}
