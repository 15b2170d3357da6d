/* What the bot's process says about its end, over a descriptor of its own; the bot may write anything there as well.
 *
 *     H<bytes>\n              before anything else, if at all: how large the heap of the interpreter can be
 *     R<JSON>                 main returned
 *     E<notes>\n<JSON>        it failed; each note is a line of `name="text"`, the text being ASCII JSON without space
 *
 * No JSON is parsed: the payload is passed on as it is, and a note's text only has to be one string of JSON.
 *
 * A bot whose main returns nothing may have written a file instead: `written/result.json` below the base, to which the
 * `result.json` beside its code is a link.
 */

#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BEGIN, NUMBER, NOTES, PAYLOAD, IGNORED };

/* The worker reads 4 KiB of all. */
static const struct {
    const char *name;
    size_t most; /* with its quotes */
} FIELDS[] = {{"reason", 50}, {"type", 250}, {"message", 1700}, {"hint", 1000}};

void open_result(struct result *result, int source, int64_t most) {
    memset(result, 0, sizeof *result);
    result->source = source;
    result->most = most;
    result->heap_bytes = -1;
    result->spool = memfd_create("result", MFD_CLOEXEC);
    fcntl(source, F_SETFL, O_NONBLOCK);
}

static void keep(struct result *result, const char *data, size_t size) {
    int64_t room = result->most - result->size;
    if ((int64_t)size > room) {
        result->too_large = true;
        size = (size_t)room;
    }
    if (!result->lost && !write_all(result->spool, data, size)) result->lost = true;
    result->size += (int64_t)size;
}

/* Take what belongs to the present state; return how much that was. */
static size_t take(struct result *result, const char *data, size_t size) {
    switch (result->state) {
    case BEGIN:
        if (*data == 'H') {
            result->number_size = 0;
            result->state = NUMBER;
        } else if (*data == 'R' || *data == 'E') {
            result->kind = *data;
            result->state = *data == 'R' ? PAYLOAD : NOTES;
            /* So that a note without a field ends like any other. */
            result->note_size = 0;
        } else {
            result->state = IGNORED;
        }
        return 1;
    case NUMBER:
        if (*data == '\n') {
            if (!parse_integer(result->number, result->number_size, &result->heap_bytes)) result->heap_bytes = -1;
            result->state = BEGIN;
        } else if (result->number_size < sizeof result->number) {
            result->number[result->number_size++] = *data;
        } else {
            result->state = IGNORED;
        }
        return 1;
    case NOTES:
        if (*data == '\n' && (result->note_size == 0 || result->note[result->note_size - 1] == '\n')) {
            result->noted = true;
            result->state = PAYLOAD;
        } else if (result->note_size < sizeof result->note) {
            result->note[result->note_size++] = *data;
        } else {
            /* Ours are never so long. */
            result->kind = 0;
            result->state = IGNORED;
        }
        return 1;
    case PAYLOAD:
        keep(result, data, size);
        return size;
    default:
        return size;
    }
}

void read_result(struct result *result) {
    static char buffer[CHUNK_BYTES];
    ssize_t length = read(result->source, buffer, sizeof buffer);
    if (length < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (length <= 0) {
        close(result->source);
        result->source = -1;
        return;
    }
    for (size_t done = 0; done < (size_t)length;) done += take(result, buffer + done, (size_t)length - done);
}

bool returned_nothing(const struct result *result) {
    char text[4];
    return result->kind == 'R' && result->size == sizeof text &&
           pread(result->spool, text, sizeof text, 0) == sizeof text && !memcmp(text, "null", sizeof text);
}

/* Open it with the rights of the bot, which may have put anything in its place. */
static int open_written(const struct spec *spec) {
    char path[PATH_BYTES];
    join(path, spec->base, "written/result.json");
    if (is_other_user(spec)) setfsuid(spec->uid);
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (is_other_user(spec)) setfsuid(0);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    return file;
}

bool take_written(struct result *result, const struct spec *spec) {
    static char buffer[CHUNK_BYTES];
    int file = open_written(spec);
    if (file < 0) return false;
    struct stat found;
    bool usable = !fstat(file, &found) && S_ISREG(found.st_mode) && found.st_size > 0 && !ftruncate(result->spool, 0) &&
                  !lseek(result->spool, 0, SEEK_SET);
    result->size = 0;
    result->too_large = result->lost = false;
    for (ssize_t length = 0; usable && !result->too_large && (length = read(file, buffer, sizeof buffer));) {
        if (length < 0) {
            result->lost = true;
            break;
        }
        keep(result, buffer, (size_t)length);
    }
    close(file);
    return usable;
}

/* The length of the sign at the begin of a JSON string's text; 0 when there is none. Halves of a pair belong together. */
static size_t sign_length(const char *text, size_t size) {
    if (size == 0 || text[0] < 0x20 || text[0] > 0x7e || text[0] == '"') return 0;
    if (text[0] != '\\') return 1;
    if (size < 2 || !strchr("\"\\/bfnrtu", text[1]) || !text[1]) return 0;
    if (text[1] != 'u') return 2;
    if (size < 6) return 0;
    for (size_t i = 2; i < 6; i++) {
        if (!memchr("0123456789abcdefABCDEF", text[i], 22)) return 0;
    }
    bool high = (text[2] == 'd' || text[2] == 'D') && strchr("89abAB", text[3]);
    if (high && size >= 12 && text[6] == '\\' && text[7] == 'u' && (text[8] == 'd' || text[8] == 'D')) {
        return sign_length(text + 6, size - 6) == 6 ? 12 : 6;
    }
    return 6;
}

/* How much of a line's text fits; false when it is no string of JSON. */
static bool fitting(const char *text, size_t size, size_t most, size_t *fits) {
    if (size < 2 || text[0] != '"' || text[size - 1] != '"') return false;
    *fits = 1;
    for (size_t at = 1; at < size - 1;) {
        size_t length = sign_length(text + at, size - 1 - at);
        if (length == 0) return false;
        if (*fits == at && at + length + 1 <= most) *fits = at + length;
        at += length;
    }
    return true;
}

size_t write_note(const struct result *result, char *text, size_t size) {
    size_t length = 0;
    unsigned seen = 0;
    const char *line = result->note, *end = result->note + result->note_size;
    for (const char *stop; result->noted && line < end && (stop = memchr(line, '\n', (size_t)(end - line))); line = stop + 1) {
        const char *equals = memchr(line, '=', (size_t)(stop - line));
        for (unsigned i = 0; equals && i < sizeof FIELDS / sizeof *FIELDS; i++) {
            size_t name = strlen(FIELDS[i].name), fits;
            bool same = (size_t)(equals - line) == name && !memcmp(line, FIELDS[i].name, name);
            if (!same || seen & 1u << i || !fitting(equals + 1, (size_t)(stop - equals - 1), FIELDS[i].most, &fits)) continue;
            if (length + name + fits + 10 > size) continue;
            seen |= 1u << i;
            memcpy(text + length, length ? ", \"" : "{\"", length ? 3 : 2);
            length += length ? 3 : 2;
            memcpy(text + length, FIELDS[i].name, name);
            length += name;
            memcpy(text + length, "\": ", 3);
            memcpy(text + length + 3, equals + 1, fits);
            length += 3 + fits;
            text[length++] = '"';
        }
    }
    if (length) text[length++] = '}';
    text[length] = 0;
    return length;
}
