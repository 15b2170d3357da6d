/* What the parts of the init share; main.c tells what it is. */

#ifndef THE0_INIT_H
#define THE0_INIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SECOND 1000000000LL
#define CHUNK_BYTES 65536
#define PATH_BYTES 512

/* Times and durations in nanoseconds. */
typedef int64_t nanoseconds;

/* --- text.c */

nanoseconds clock_now(clockid_t clock);
/* Join folder and name; the program ends when the path is too long. */
void join(char path[PATH_BYTES], const char *folder, const char *name);
/* The first bytes of a file, ended by a zero; -1 when it cannot be read. Never waits. */
ssize_t read_file(const char *path, char *buffer, size_t size);
/* Parse digits alone; false for anything else, also for what is over 2^63 - 1. */
bool parse_integer(const char *text, size_t length, int64_t *value);
/* Parse `12` or `12.345` as seconds; what is over 60 years counts as that. */
bool parse_seconds(const char *text, size_t length, nanoseconds *value);
/* Write all of it, unless the descriptor takes no more. */
bool write_all(int descriptor, const char *data, size_t size);
/* Say on standard error what went wrong. */
void complain(const char *what, const char *why);

/* --- spec.c */

struct spec {
    const char *base;
    char *const *command;
    nanoseconds keepalive_ttl; /* negative: there is no lease */
    int64_t result_bytes;
    int64_t output_bytes_per_second;
    int64_t output_burst_bytes;
    uid_t uid; /* the bot's, if the init may choose; the init's own where they are the same */
    gid_t gid;
    uid_t query_uid; /* of the process that answers queries; -1: the bot has none */
    const char *state; /* the folder of the bot's state; NULL: there is none */
    int64_t state_bytes, state_files; /* their highest numbers */
    int64_t state_kept, state_restored; /* whether changes are saved; whether there is something to begin with */
    const char *standby; /* the word without which the bot does not start; NULL: it starts at once */
};

/* Read `spec/init.conf` below the base; the program ends when it is not complete. */
void read_spec(struct spec *spec);

/* --- lease.c */

#define TERM_BEFORE_DEADLINE (SECOND * 3 / 4)

struct lease {
    char path[PATH_BYTES];
    char boot_id[64];
    char seen[256]; /* empty: no content was taken yet */
    nanoseconds deadline; /* by CLOCK_BOOTTIME */
    bool final;           /* nothing extends it any more */
};

void open_lease(struct lease *lease, const char *base, nanoseconds ttl);
void look_at_lease(struct lease *lease);

/* --- standby.c */

/* Wait until the worker lets the bot start; false when it must never start. */
bool stand_by(struct spec *spec, struct lease *lease, int signals);

/* --- stream.c */

/* One output of the bot on its way to the engine. */
struct stream {
    int source, target;
    bool open;
    char last; /* of what was read */
    size_t begin, end;
    char buffer[CHUNK_BYTES];
};

void open_stream(struct stream *stream, int source, int target);
bool is_pending(const struct stream *stream);
/* Read up to `most` bytes; return how many. Only for a stream with nothing pending. */
size_t fill_stream(struct stream *stream, size_t most);
void empty_stream(struct stream *stream);

/* --- result.c */

/* What the bot's process says about its end, over a descriptor of its own. */
struct result {
    int source; /* negative: closed */
    int spool;  /* memory that holds the payload */
    char kind;  /* 0: nothing was said; 'R': main returned; 'E': it failed */
    int state;
    bool too_large, lost, noted;
    int64_t most, size; /* of the payload */
    int64_t heap_bytes; /* of the interpreter, -1: not reported */
    size_t number_size, note_size;
    char number[24];
    char note[8192];
};

void open_result(struct result *result, int source, int64_t most);
void read_result(struct result *result);
/* Whether main returned, and returned nothing. */
bool returned_nothing(const struct result *result);
/* Replace the payload by the file that the bot wrote as its result; false when there is none. */
bool take_written(struct result *result, const struct spec *spec);
/* Write the bounded note as a JSON object; empty when it has no field. */
size_t write_note(const struct result *result, char *text, size_t size);

/* --- outcome.c */

/* Note for the worker what the kernel counted; with `final` also what the bot left. */
struct ending {
    const char *reason, *kind, *failure; /* failure: JSON, or empty */
    int payload;                         /* a descriptor, or negative */
};

/* In a pod, the file of the outcome, which has no name that the bot could open; negative: it has one. */
extern int outcome_file;
/* False when the outcome is wanted and could not be written. */
bool write_outcome(const char *base, const struct ending *ending, bool final);
/* The highest memory use of the container; -1 when the kernel does not say. */
int64_t peak_memory_bytes(void);

/* --- bot.c */

/* Whether the bot gets another user than the init; where the init may not be root, it cannot choose. */
bool is_other_user(const struct spec *spec);
bool drop_capabilities(void);
/* Replace this process by the bot's. */
_Noreturn void become_bot(const struct spec *spec, int output, int errors, int result);
/* Replace this process by the one that answers queries: another user than the bot, of the bot's group. */
_Noreturn void become_query_process(const struct spec *spec, int output);

/* --- relay.c */

/* Where the output of the query process goes to the init, below the base. */
#define QUERY_OUTPUT "private/query-output"

/* Relay queries between standard input and output and the query process, until the input ends; see relay.c. */
int relay_queries(const struct spec *spec);

/* --- state.c */

/* Unpack what the worker gives; false when the bot must not start, since its state is not complete. */
bool begin_state(const struct spec *spec);
/* Pack the state whenever it has changed; never returns. */
void keep_state(const struct spec *spec);
/* Pack the state of a bot that has ended, if it changed since. */
void save_last_state(const struct spec *spec);

/* --- ring.c */

#define RING_BYTES (16u << 20)

/* Output that the worker of a pod has not stored yet. */
struct ring {
    int file;
    uint64_t begin, end, newest;
};

bool open_ring(struct ring *ring, const char *folder);
void add_record(struct ring *ring, bool errors, char *data, size_t size);
/* Read up to `most` bytes from the offset on, which first becomes that of the oldest record if that one is gone. */
size_t read_ring(struct ring *ring, uint64_t *offset, char *data, size_t most);
/* Drop what comes before the offset. */
void release_ring(struct ring *ring, uint64_t offset);

/* --- link.c */

#define PEERS 4
#define FRAME_BYTES 65536

struct peer {
    int socket; /* negative: none */
    nanoseconds since;
    bool greeted;
    uint64_t sent, received;
    char own[16], other[16];
    size_t input_begin, input_end, output_begin, output_end;
    char input[FRAME_BYTES + 64], output[2 * FRAME_BYTES];
};

struct link {
    int listener;
    unsigned char key[32];
    struct peer peers[PEERS];
    struct peer *worker; /* the one that proved the key last; NULL: none */
};

bool listen_link(struct link *link, int port);
void accept_peers(struct link *link);
void drop_peer(struct link *link, struct peer *peer);
/* Drop those that have not proven the key in time. */
void drop_unproven(struct link *link);
/* Whether nothing waits to be sent, so that any frame fits. */
bool can_send(const struct peer *peer);
void send_frame(struct link *link, struct peer *peer, const char *text, size_t size);
void flush_peer(struct link *link, struct peer *peer);
/* Receive, and call `take` with the text of each frame. */
void read_peer(struct link *link, struct peer *peer, void (*take)(struct peer *, const char *, size_t));

/* --- pod.c */

/* Serve the worker of a pod. Returns only in the process that starts the bot, with its command. */
char *const *serve_pod(const char *base, int port);
/* Copy this program. */
int install_program(const char *path);

/* --- filter.c */

/* Refuse a bot the sockets and the parts of the kernel that it has no use for; EINVAL: the kernel has no filters. */
bool close_kernel(void);
/* Refuse system calls by which a process of the same user could touch the process `init`. */
bool install_filter(pid_t init);

#endif
