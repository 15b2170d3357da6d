/* The container's first process: keeps the bot's process, its output and its lease. One program for all languages.
 *
 *     the0-init BASE COMMAND [ARGUMENT...]
 *     the0-init --queries BASE COMMAND [ARGUMENT...]       a further process of a running container: see relay.c
 *     the0-init --pod PORT BASE                            the first process of a pod: see pod.c
 *     the0-init --install FILE                             copy the program, for a pod whose image lacks it
 *
 * It is process 1, so that the kernel drops what the bot sends it: SIGKILL, SIGSTOP and every signal without a handler.
 * It starts as root of the container, with CAP_SETUID, CAP_SETGID and CAP_KILL alone, and the bot is another user; or
 * else, where it may not be root, the bot gets a filter of system calls. It allocates no memory and starts no process
 * once the bot runs, so that no limit of the container keeps the switch from firing.
 *
 * A second process of the init notes what the container uses. Its file is on a disk, and a disk that hangs must stop
 * nothing else. A third one keeps the bot's state (state.c), for the same reason.
 *
 * A standby waits for its worker before anything of the bot is read (standby.c): until then another container runs it.
 *
 * Exit code: the bot's own, 128+n when signal n ended it, 75 when its lease ran out, 127 when it could not be started.
 */

#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LEASE_LOST 75
#define MAX_GRACE (30 * SECOND)
#define LOOK (SECOND / 5)
#define SLOWED (SECOND / 20)
#define DRAIN (5 * SECOND)
#define DRAIN_LEASE_LOST SECOND
#define FIRST_USAGE_SECONDS 1
#define USAGE_SECONDS 10
/* A process that the kernel cannot end must not keep the container. */
#define DEATH (5 * SECOND)
#define REAPED_AT_ONCE 256

static struct spec spec;
static struct lease lease;
/* The bot's output and errors; and what the query process prints, where there is one. */
static struct stream streams[3];
static int stream_count = 2;
static struct result result;
static int signals;
static pid_t bot, recorder, keeper;
static bool ended, recorder_ended, keeper_ended = true;
static int status;
static const char *reason = "exit";
static double tokens, burst;

static nanoseconds at_least(nanoseconds value, nanoseconds least) { return value > least ? value : least; }
static nanoseconds at_most(nanoseconds value, nanoseconds most) { return value < most ? value : most; }

/* --- other processes */

static void send_bot(int number) {
    if (!ended) kill(bot, number);
}

/* End the bot and all that it has started at once: what is left of its CPU quota may not suffice to see one die
 * before the next. */
static void kill_rest(void) {
    if (getpid() == 1) {
        kill(-1, SIGKILL);
    } else {
        kill(-bot, SIGKILL);
        if (!recorder_ended) kill(recorder, SIGKILL);
        if (!keeper_ended) kill(keeper, SIGKILL);
    }
}

/* Take what has ended; false when there may be more. A flood of dead processes must not hold up the rest. */
static bool reap(void) {
    for (int i = 0; i < REAPED_AT_ONCE; i++) {
        int how;
        pid_t process = waitpid(-1, &how, WNOHANG);
        if (process <= 0) return process == 0 || errno != EINTR;
        if (process == bot) {
            ended = true;
            status = how;
        }
        if (process == recorder) recorder_ended = true;
        if (process == keeper) keeper_ended = true;
    }
    return false;
}

static void take_signals(void) {
    struct signalfd_siginfo found;
    while (read(signals, &found, sizeof found) == sizeof found) {
        if (found.ssi_signo == SIGCHLD) continue;
        if (!strcmp(reason, "exit")) reason = "terminated";
        send_bot((int)found.ssi_signo);
    }
}

static _Noreturn void record(void) {
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (outcome_file > 0) {
        syscall(SYS_close_range, 0, outcome_file - 1, 0);
        syscall(SYS_close_range, outcome_file + 1, ~0U, 0);
    } else {
        syscall(SYS_close_range, 0, ~0U, 0);
    }
    unsigned wait = FIRST_USAGE_SECONDS;
    for (;;) {
        struct timespec time = {wait, 0};
        nanosleep(&time, NULL);
        wait = USAGE_SECONDS;
        write_outcome(spec.base, &(struct ending){"running", "none", "", -1}, false);
    }
}

static void make_pipe(int ends[2]) {
    int made[2];
    if (pipe2(made, O_CLOEXEC)) goto failed;
    for (int i = 0; i < 2; i++) {
        /* What the bot gets as 1, 2 and 3 must not be overwritten by one another. */
        ends[i] = fcntl(made[i], F_DUPFD_CLOEXEC, 10);
        if (ends[i] < 0) goto failed;
        close(made[i]);
    }
    return;
failed:
    complain("no pipe can be made", strerror(errno));
    _exit(1);
}

/* The relay of queries writes there what the query process prints. Open for both, it never ends. */
static void open_query_output(void) {
    char path[PATH_BYTES];
    join(path, spec.base, QUERY_OUTPUT);
    if (mkfifo(path, 0600) && errno != EEXIST) return;
    int pipe = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (pipe < 0) return;
    open_stream(&streams[2], pipe, 2);
    stream_count = 3;
}

static void start(void) {
    int output[2], errors[2], results[2];
    /* They belong to the bot, so that it can open /dev/stdout and /dev/stderr. */
    if (is_other_user(&spec)) setfsuid(spec.uid);
    make_pipe(output);
    make_pipe(errors);
    make_pipe(results);
    if (is_other_user(&spec)) setfsuid(0);
    /* With the change of user the kernel may have given it another value. */
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    bot = fork();
    if (bot == 0) become_bot(&spec, output[1], errors[1], results[1]);
    if (bot < 0) {
        complain("the bot's process cannot be started", strerror(errno));
        _exit(1);
    }
    close(output[1]);
    close(errors[1]);
    close(results[1]);
    recorder = fork();
    if (recorder == 0) record();
    if (recorder < 0) recorder_ended = true;
    if (spec.state && spec.state_kept) {
        keeper = fork();
        if (keeper == 0) keep_state(&spec);
        keeper_ended = keeper < 0;
    }
    open_stream(&streams[0], output[0], 1);
    open_stream(&streams[1], errors[0], 2);
    if (spec.query_uid != (uid_t)-1) open_query_output();
    open_result(&result, results[0], spec.result_bytes);
    /* Its pages stay, however short the container's memory is. Here, since a fork shares them until they change. */
    mlockall(MCL_CURRENT | MCL_FUTURE);
}

/* When the bot is asked to end because of the lease. One that already was, before its worker gave the segment away,
 * has all the time until its last deadline. */
static nanoseconds ask_at(void) {
    bool asked = lease.final && !strcmp(reason, "terminated");
    return asked ? lease.deadline : lease.deadline - TERM_BEFORE_DEADLINE;
}

/* --- one step */

/* Wait, and move what is there, up to `most` bytes of output; return how much that was. */
static size_t move(nanoseconds wait, size_t most) {
    enum { SIGNALS, RESULT, FIRST };
    struct pollfd watched[FIRST + 3] = {{signals, POLLIN, 0}, {result.source, POLLIN, 0}};
    for (int i = 0; i < stream_count; i++) {
        struct stream *stream = &streams[i];
        watched[FIRST + i].fd = -1;
        if (is_pending(stream)) {
            watched[FIRST + i] = (struct pollfd){stream->target, POLLOUT, 0};
        } else if (stream->open && most) {
            watched[FIRST + i] = (struct pollfd){stream->source, POLLIN, 0};
        }
    }
    wait = at_least(wait, 0);
    struct timespec time = {wait / SECOND, wait % SECOND};
    if (ppoll(watched, (nfds_t)(FIRST + stream_count), &time, NULL) <= 0) return 0;
    if (watched[SIGNALS].revents) take_signals();
    if (watched[RESULT].revents) read_result(&result);
    size_t moved = 0;
    for (int i = 0; i < stream_count; i++) {
        if (!watched[FIRST + i].revents) continue;
        if (!is_pending(&streams[i]) && moved < most) moved += fill_stream(&streams[i], most - moved);
        if (is_pending(&streams[i])) empty_stream(&streams[i]);
    }
    return moved;
}

static void run(void) {
    bool leased = spec.keepalive_ttl >= 0, all_reaped = true;
    nanoseconds kill_at = -1, killed_at = -1, look_at = 0, refilled = clock_now(CLOCK_MONOTONIC);
    while (!ended) {
        nanoseconds now = clock_now(CLOCK_MONOTONIC);
        tokens += (double)(now - refilled) * (double)spec.output_bytes_per_second / (double)SECOND;
        if (tokens > burst) tokens = burst;
        refilled = now;
        size_t most = tokens < 1 ? 0 : (size_t)tokens;
        nanoseconds wait = 60 * SECOND;
        if (!all_reaped) wait = 0;
        if (!most) wait = at_most(wait, SLOWED);
        if (leased) {
            now = clock_now(CLOCK_BOOTTIME);
            nanoseconds next = kill_at < 0 ? ask_at() : at_most(lease.deadline, kill_at);
            wait = at_most(wait, at_most(look_at, killed_at < 0 ? next : look_at) - now);
        }
        tokens -= (double)move(wait, most);
        all_reaped = reap();
        if (!leased || ended) continue;
        now = clock_now(CLOCK_BOOTTIME);
        if (now >= look_at) {
            look_at_lease(&lease);
            look_at = now + LOOK;
        }
        if (kill_at < 0 && now >= ask_at()) {
            reason = "lease-lost";
            kill_at = now + MAX_GRACE;
            send_bot(SIGTERM);
        }
        if (killed_at < 0 && kill_at >= 0 && now >= at_most(lease.deadline, kill_at)) {
            kill_rest();
            killed_at = now;
        }
        /* What the kernel cannot end now ends with this process, which is the last. */
        if (killed_at >= 0 && now >= killed_at + DEATH) _exit(LEASE_LOST);
    }
}

/* --- afterwards */

static nanoseconds patience(void) { return strcmp(reason, "lease-lost") ? DRAIN : DRAIN_LEASE_LOST; }

/* Bring out what the bot had written when it ended; for a while, since the engine may be away. */
static void drain(void) {
    nanoseconds until = clock_now(CLOCK_MONOTONIC) + patience();
    while (clock_now(CLOCK_MONOTONIC) < until) {
        bool done = result.source < 0 && recorder_ended && keeper_ended;
        for (int i = 0; i < 2; i++) done = done && !streams[i].open && !is_pending(&streams[i]);
        if (done) return;
        move(SECOND / 10, CHUNK_BYTES);
        reap();
    }
}

/* Print the payload as a line of its own, behind what the engine has not taken yet. */
static void print_payload(int payload) {
    nanoseconds until = clock_now(CLOCK_MONOTONIC) + patience();
    struct stream *output = &streams[0];
    off_t at = 0;
    bool begun = output->last == '\n', all_read = false;
    while (clock_now(CLOCK_MONOTONIC) < until) {
        if (!is_pending(output)) {
            if (all_read) return;
            ssize_t length = begun ? pread(payload, output->buffer, CHUNK_BYTES, at) : 0;
            if (length > 0) {
                at += length;
            } else {
                output->buffer[0] = '\n';
                length = 1;
                all_read = begun;
                begun = true;
            }
            output->begin = 0;
            output->end = (size_t)length;
        }
        struct pollfd watched = {output->target, POLLOUT, 0};
        if (poll(&watched, 1, 100) > 0) empty_stream(output);
    }
}

/* Replace the payload by the JSON of an error. */
static void replace_payload(const char *message) {
    char text[256];
    int length = snprintf(text, sizeof text, "{\"status\": \"error\", \"message\": \"%s\"}", message);
    if (ftruncate(result.spool, 0) || lseek(result.spool, 0, SEEK_SET)) return;
    write_all(result.spool, text, (size_t)length);
}

/* Save what the bot wrote last. Of what still dies nothing is written any more once it is reaped. */
static void save_state(void) {
    nanoseconds until = clock_now(CLOCK_MONOTONIC) + patience();
    if (!spec.state || !spec.state_kept || !keeper_ended) return;
    while (clock_now(CLOCK_MONOTONIC) < until && (waitpid(-1, NULL, WNOHANG) >= 0 || errno == EINTR)) {
        nanosleep(&(struct timespec){0, SECOND / 1000}, NULL);
    }
    save_last_state(&spec);
}

static int finish(void) {
    static char failure[4096];
    char message[160];
    bool lost = !strcmp(reason, "lease-lost");
    int code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    char kind = result.kind == 'E' && !result.noted ? 0 : result.kind;
    bool silent = !kind || returned_nothing(&result);
    bool written = silent && WIFEXITED(status) && !lost && take_written(&result, &spec);
    if (written) kind = code == 0 ? 'R' : 'W';
    if (kind == 'W' && (result.too_large || result.lost)) kind = 0;
    const char *what = written ? "result.json has" : "main returned";
    if (kind == 'R' && code == 0 && (result.too_large || result.lost)) {
        kind = 'E';
        code = 1;
        snprintf(message, sizeof message, "%s more than %lld bytes of JSON", what, (long long)spec.result_bytes);
        if (result.lost) snprintf(message, sizeof message, "what %s does not fit into the memory that is left", what);
        snprintf(failure, sizeof failure, "{\"reason\": \"%s\", \"message\": \"%s\"}",
                 result.lost ? "result-lost" : "result-too-large", message);
        replace_payload(message);
    } else if (kind == 'E' && code != 0) {
        write_note(&result, failure, sizeof failure);
    } else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && result.heap_bytes > 0 &&
               peak_memory_bytes() >= result.heap_bytes / 10 * 8) {
        /* Young objects and what is not in the heap make up for the rest, more or less. */
        snprintf(failure, sizeof failure,
                 "{\"reason\": \"heap-full\", \"message\": \"out of memory: it used more than the %lld MiB that Node has for "
                 "its heap here\", \"hint\": \"raise config.resources.memoryMb or MEMORY_LIMIT_MB\"}",
                 (long long)(result.heap_bytes + (1 << 19)) >> 20);
    }
    if ((kind == 'R' && code != 0) || (kind == 'E' && code == 0) || lost) kind = 0;
    if (lost) code = LEASE_LOST;
    if (kind) print_payload(result.spool);
    /* A recorder that still hangs would write over it, and so would this process hang. */
    const char *word = kind == 'R' ? "result" : kind == 'E' ? "error" : kind == 'W' ? "written" : "none";
    bool noted = recorder_ended && write_outcome(spec.base, &(struct ending){reason, word, failure, kind ? result.spool : -1}, true);
    /* Without the outcome the code alone says whether the lease was lost: that must not be the bot's to say. */
    return !noted && code == LEASE_LOST && !lost ? 1 : code;
}

static void prepare(void) {
    sigset_t handled;
    sigemptyset(&handled);
    sigaddset(&handled, SIGTERM);
    sigaddset(&handled, SIGINT);
    sigaddset(&handled, SIGHUP);
    sigaddset(&handled, SIGCHLD);
    sigprocmask(SIG_BLOCK, &handled, NULL);
    signals = signalfd(-1, &handled, SFD_NONBLOCK | SFD_CLOEXEC);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    /* All containers of a host share the kernel's pool of terminals. `docker exec -t` is root and still gets one. */
    chmod("/dev/pts/ptmx", 0600);
}

/* The bot's state is not there: it must not start without it. */
static int refuse(void) {
    static const char failure[] = "{\"reason\": \"state-not-restored\", \"message\": \"its state cannot be unpacked into "
                                  "/state, so it was not started\", \"hint\": \"raise STATE_LIMIT_MB, or choose an earlier "
                                  "state (runtime bot state)\"}";
    complain("the state cannot be restored; not starting", NULL);
    write_outcome(spec.base, &(struct ending){"exit", "error", failure, -1}, true);
    return 1;
}

static bool is_too_late(void) {
    if (clock_now(CLOCK_BOOTTIME) < lease.deadline - TERM_BEFORE_DEADLINE) return false;
    complain("the worker's lease ran out before this container started; not starting", NULL);
    return true;
}

int main(int count, char **arguments) {
    if (count < 3) {
        complain("usage: the0-init BASE COMMAND [ARGUMENT...]", NULL);
        return 2;
    }
    bool in_pod = count == 4 && !strcmp(arguments[1], "--pod");
    if (count == 3 && !strcmp(arguments[1], "--install")) return install_program(arguments[2]);
    bool is_relay = count > 3 && !strcmp(arguments[1], "--queries");
    spec.base = arguments[is_relay ? 2 : in_pod ? 3 : 1];
    spec.command = in_pod ? serve_pod(spec.base, atoi(arguments[2])) : arguments + (is_relay ? 3 : 2);
    read_spec(&spec);
    if (is_relay) return relay_queries(&spec);
    if (spec.keepalive_ttl >= 0) {
        open_lease(&lease, spec.base, spec.keepalive_ttl);
        if (is_too_late()) return LEASE_LOST;
    }
    prepare();
    burst = (double)(spec.output_burst_bytes > CHUNK_BYTES ? spec.output_burst_bytes : CHUNK_BYTES);
    tokens = burst;
    if (spec.standby && !stand_by(&spec, &lease, signals)) return LEASE_LOST;
    if (spec.state && !begin_state(&spec)) return refuse();
    if (spec.keepalive_ttl >= 0) {
        look_at_lease(&lease);
        if (is_too_late()) return LEASE_LOST;
    }
    start();
    run();
    kill_rest();
    drain();
    save_state();
    return finish();
}
