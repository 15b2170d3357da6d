/* The worker's settings for the init: lines of `name=number`, which are simple to parse. Two of them are texts: `state`,
 * a path, and `standby`. */

#include "init.h"

#include <string.h>
#include <unistd.h>

static bool take(struct spec *spec, const char *name, size_t length, char *value, size_t size) {
    struct {
        const char *name;
        int64_t *number;
    } numbers[] = {
        {"result_bytes", &spec->result_bytes},
        {"output_bytes_per_second", &spec->output_bytes_per_second},
        {"output_burst_bytes", &spec->output_burst_bytes},
        {"state_bytes", &spec->state_bytes},
        {"state_files", &spec->state_files},
        {"state_kept", &spec->state_kept},
        {"state_restored", &spec->state_restored},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (strlen(numbers[i].name) == length && !memcmp(numbers[i].name, name, length)) {
            return parse_integer(value, size, numbers[i].number);
        }
    }
    int64_t id;
    if (length == 3 && !memcmp(name, "uid", 3)) {
        if (!parse_integer(value, size, &id) || id >= UINT32_MAX) return false;
        spec->uid = (uid_t)id;
    } else if (length == 3 && !memcmp(name, "gid", 3)) {
        if (!parse_integer(value, size, &id) || id >= UINT32_MAX) return false;
        spec->gid = (gid_t)id;
    } else if (length == 9 && !memcmp(name, "query_uid", 9)) {
        if (!parse_integer(value, size, &id) || id >= UINT32_MAX) return false;
        spec->query_uid = (uid_t)id;
    } else if (length == 5 && !memcmp(name, "state", 5)) {
        value[size] = 0;
        spec->state = value;
    } else if (length == 7 && !memcmp(name, "standby", 7) && size) {
        value[size] = 0;
        spec->standby = value;
    } else if (length == 21 && !memcmp(name, "keepalive_ttl_seconds", 21)) {
        return parse_seconds(value, size, &spec->keepalive_ttl);
    } else {
        return false;
    }
    return true;
}

void read_spec(struct spec *spec) {
    static char text[4096];
    char path[PATH_BYTES];
    spec->keepalive_ttl = spec->result_bytes = spec->output_bytes_per_second = spec->output_burst_bytes = -1;
    spec->uid = spec->gid = spec->query_uid = (uid_t)-1;
    spec->state = spec->standby = NULL;
    spec->state_bytes = spec->state_files = spec->state_kept = spec->state_restored = 0;
    join(path, spec->base, "spec/init.conf");
    if (read_file(path, text, sizeof text) < 0) {
        complain("what the worker wrote for the container cannot be read", path);
        _exit(1);
    }
    for (char *line = text, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        char *equals = end ? memchr(line, '=', (size_t)(end - line)) : NULL;
        if (!equals || !take(spec, line, (size_t)(equals - line), equals + 1, (size_t)(end - equals - 1))) {
            complain("a line that cannot be read", path);
            _exit(1);
        }
    }
    bool complete = spec->result_bytes >= 0 && spec->output_bytes_per_second >= 0 && spec->output_burst_bytes >= 0;
    if (!complete || spec->uid == (uid_t)-1 || spec->gid == (gid_t)-1) {
        complain("a line is missing", path);
        _exit(1);
    }
}
