/* The first process of a pod. It has the bot's user, and no worker is on its machine: what the engine and the worker's
 * folders do for a container, it does over a connection (link.c) on which the worker asked for one.
 *
 *     from the worker: H epoch, offset     the ownership; the output is sent from the offset on
 *                      F mode, path        a file begins; D its bytes; K a folder; L target, 0, path: a link
 *                      S words             start the bot: the words of its command, each ended by a zero
 *                      G nonce, ms, final  the answer to a question: how long the bot may live from when it was asked
 *                      T ms                end the bot, at the latest after so long
 *                      A offset            the output up to here is stored
 *                      X                   the lease is lost: end the bot at once
 *                      B                   everything has arrived: exit
 *     to the worker:   W phase, offset     the answer to H: w(aiting), r(unning) or e(nded); where the output begins
 *                      N                   a later owner was here
 *                      Q nonce             how long may the bot live?
 *                      O offset, bytes     output, as in ring.c
 *                      C, V: at, size, bytes   a part of the outcome, of the archive of the state
 *                      P word              the problem of the state; empty: none
 *                      E text              the bot cannot be started
 *                      Z code, lost        the bot ended, and all else was sent
 *
 * Numbers are big-endian. The bot is started by a child, which works as in a container without a lease: this process
 * has the lease, in its memory. A process of the bot can neither signal nor trace the child (filter.c), and the kernel
 * drops what it sends the first process of its namespace.
 */

#include "init.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LEASE_LOST 75
#define TERM_BEFORE_DEADLINE (SECOND * 3 / 4)
#define LOOK (SECOND / 4)
/* A worker that answers late is answered by its own question: so many are remembered. */
#define QUESTIONS 32
#define UNTIL_START (120 * SECOND)
/* How long what the bot left is kept for a worker. */
#define UNTIL_TAKEN (600 * SECOND)
#define DRAIN (2 * SECOND)
#define PART 32768
#define MOST_WORDS 64

static const char *folder;
static struct link line;
static struct ring ring;
static char phase = 'w';
static bool lost, final, welcome, told_end, problem_due, failed;
static uint64_t epoch, asked, cursor;
static nanoseconds asked_at[QUESTIONS], deadline, kill_at = -1, ended_at, look_at, ask_due;
static pid_t child;
static int code, signals, written = -1, pipes[2] = {-1, -1};
static char *words[MOST_WORDS + 1];

/* A file on its way to the worker. */
static struct parcel {
    char kind;
    int file; /* negative: nothing is due */
    uint32_t size, at;
    uint64_t seen;
} outcome = {'C', -1, 0, 0, 0}, state = {'V', -1, 0, 0, 0};

static nanoseconds now_boot(void) { return clock_now(CLOCK_BOOTTIME); }

/* --- what the worker sends */

static uint64_t number(const char *text, size_t bytes) {
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; i++) value = value << 8 | (unsigned char)text[i];
    return value;
}

static void put_number(char *text, uint64_t value, size_t bytes) {
    for (size_t i = bytes; i-- > 0; value >>= 8) text[i] = (char)value;
}

static void refuse_start(const char *why) {
    char text[512];
    if (!line.worker) return;
    int length = snprintf(text, sizeof text, "E%s: %s", why, strerror(errno));
    send_frame(&line, line.worker, text, (size_t)length < sizeof text ? (size_t)length : sizeof text - 1);
    failed = true;
}

static void make_folders(char *path) {
    for (char *sign = path + 1; (sign = strchr(sign, '/')); sign++) {
        *sign = 0;
        mkdir(path, 0755);
        *sign = '/';
    }
}

/* Files are only taken before the bot runs, which could replace the folders by links. */
static void take_file(char kind, const char *text, size_t size) {
    char path[4096];
    size_t skipped = kind == 'F' ? 4 : kind == 'L' ? strnlen(text, size) + 1 : 0;
    if (phase != 'w' || failed) return;
    if (kind == 'D') {
        if (written >= 0 && !write_all(written, text, size)) refuse_start("a file cannot be written");
        return;
    }
    if (written >= 0) close(written);
    written = -1;
    if (size <= skipped || size - skipped >= sizeof path) return;
    memcpy(path, text + skipped, size - skipped);
    path[size - skipped] = 0;
    make_folders(path);
    if (kind == 'K') {
        if (mkdir(path, 0755) && errno != EEXIST) refuse_start(path);
    } else if (kind == 'L') {
        unlink(path);
        if (symlink(text, path)) refuse_start(path);
    } else {
        unlink(path);
        written = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (written < 0 || fchmod(written, (mode_t)number(text, 4) & 0777)) refuse_start(path);
    }
}

static void begin_child(void) {
    int output[2], errors[2];
    if (written >= 0) close(written);
    written = -1;
    outcome_file = memfd_create("outcome", MFD_CLOEXEC);
    if (outcome_file < 0 || pipe2(output, O_CLOEXEC) || pipe2(errors, O_CLOEXEC)) return refuse_start("no pipe");
    pid_t parent = getpid();
    child = fork();
    if (child < 0) return refuse_start("no process");
    if (child > 0) {
        close(output[1]);
        close(errors[1]);
        pipes[0] = output[0];
        pipes[1] = errors[0];
        for (int i = 0; i < 2; i++) fcntl(pipes[i], F_SETFL, O_NONBLOCK);
        phase = 'r';
        welcome = true;
        return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (getppid() != parent || dup2(output[1], 1) < 0 || dup2(errors[1], 2) < 0) _exit(1);
    int kept = fcntl(outcome_file, F_DUPFD_CLOEXEC, 10);
    if (kept < 0) _exit(1);
    syscall(SYS_close_range, 3, kept - 1, 0);
    syscall(SYS_close_range, kept + 1, ~0U, 0);
    outcome_file = kept;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    explicit_bzero(line.key, sizeof line.key);
    phase = 's';
}

static void take_start(const char *text, size_t size) {
    static char kept[FRAME_BYTES + 1];
    size_t count = 0;
    if (phase != 'w' || failed) return;
    if (now_boot() >= deadline - TERM_BEFORE_DEADLINE) {
        errno = ETIME;
        return refuse_start("the lease of its worker has run out");
    }
    memcpy(kept, text, size);
    kept[size] = 0;
    for (size_t at = 0; at < size && count < MOST_WORDS; at += strlen(kept + at) + 1) words[count++] = kept + at;
    words[count] = NULL;
    if (count) begin_child();
}

static void take_grant(const char *text, size_t size) {
    if (size < 13 || final) return;
    uint64_t nonce = number(text, 8);
    if (nonce > asked || nonce + QUESTIONS <= asked || nonce == 0) return;
    nanoseconds until = asked_at[nonce % QUESTIONS] + (nanoseconds)number(text + 8, 4) * (SECOND / 1000);
    /* What was granted is granted, unless it is the last. */
    if (text[12]) {
        final = true;
        deadline = until;
    } else if (until > deadline) {
        deadline = until;
    }
}

static void end_child(nanoseconds grace) {
    nanoseconds until = now_boot() + grace;
    if (phase != 'r') return;
    if (grace > 0 && kill_at < 0) kill(child, SIGTERM);
    if (kill_at < 0 || until < kill_at) kill_at = until;
}

static void take_hello(struct peer *peer, const char *text, size_t size) {
    if (size < 16 || number(text, 8) < epoch) {
        send_frame(&line, peer, "N", 1);
        flush_peer(&line, peer);
        drop_peer(&line, peer);
        return;
    }
    epoch = number(text, 8);
    cursor = number(text + 8, 8);
    if (line.worker && line.worker != peer) drop_peer(&line, line.worker);
    line.worker = peer;
    outcome.seen = state.seen = 0;
    outcome.at = state.at = 0;
    told_end = false;
    welcome = problem_due = true;
    ask_due = look_at = 0;
}

static void take(struct peer *peer, const char *text, size_t size) {
    const char *rest = text + 1;
    if (*text == 'H') return take_hello(peer, rest, size - 1);
    if (peer != line.worker || phase == 's') return;
    switch (*text) {
        case 'F':
        case 'D':
        case 'K':
        case 'L': return take_file(*text, rest, size - 1);
        case 'S': return take_start(rest, size - 1);
        case 'G': return take_grant(rest, size - 1);
        case 'T':
            if (size >= 5) end_child((nanoseconds)number(rest, 4) * (SECOND / 1000));
            return;
        case 'A':
            if (size >= 9) release_ring(&ring, number(rest, 8));
            return;
        case 'X':
            final = true;
            deadline = 0;
            return;
        case 'B':
            if (phase == 'e' || phase == 'w') _exit(code);
    }
}

/* --- what is sent to the worker */

/* The archive is replaced as a whole, so that an open one stays as it is. */
static void look_at_state(void) {
    char path[PATH_BYTES];
    struct stat about;
    if (state.at < state.size && state.file >= 0) return;
    join(path, folder, "private/state/saved");
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (file < 0 || fstat(file, &about) || !S_ISREG(about.st_mode) || about.st_size > INT32_MAX) {
        if (file >= 0) close(file);
        return;
    }
    uint64_t seen = (uint64_t)about.st_ino * 31 + (uint64_t)about.st_mtim.tv_sec * SECOND + (uint64_t)about.st_mtim.tv_nsec;
    if (seen == state.seen) {
        close(file);
        return;
    }
    if (state.file >= 0) close(state.file);
    state = (struct parcel){'V', file, (uint32_t)about.st_size, 0, seen};
}

static void look_at_problem(void) {
    static char before[64];
    char path[PATH_BYTES], text[64] = "";
    join(path, folder, "private/state/problem");
    if (read_file(path, text, sizeof text) < 0) *text = 0;
    if (strcmp(before, text)) problem_due = true;
    strcpy(before, text);
    if (welcome || !problem_due || !can_send(line.worker)) return;
    char frame[65] = "P";
    strcpy(frame + 1, text);
    send_frame(&line, line.worker, frame, strlen(frame));
    problem_due = false;
}

static void look_at_outcome(void) {
    static char head[512];
    struct stat about;
    if (outcome_file < 0 || outcome.at < outcome.size || fstat(outcome_file, &about) || !about.st_size) return;
    ssize_t length = pread(outcome_file, head, sizeof head, 0);
    uint64_t seen = 0xcbf29ce484222325ULL + (phase == 'e');
    for (ssize_t i = 0; i < length; i++) seen = (seen ^ (unsigned char)head[i]) * 0x100000001b3ULL;
    if (seen == outcome.seen) return;
    /* The payload is there once the bot has ended. */
    uint32_t size = phase == 'e' || length < 0 ? (uint32_t)about.st_size : (uint32_t)length;
    outcome = (struct parcel){'C', outcome_file, size, 0, seen};
}

static bool send_part(struct parcel *parcel) {
    static char frame[9 + PART];
    if (parcel->file < 0 || parcel->at >= parcel->size) return false;
    ssize_t length = pread(parcel->file, frame + 9, PART, parcel->at);
    if (length <= 0) {
        parcel->at = parcel->size;
        return false;
    }
    if ((uint32_t)length > parcel->size - parcel->at) length = parcel->size - parcel->at;
    frame[0] = parcel->kind;
    put_number(frame + 1, parcel->at, 4);
    put_number(frame + 5, parcel->size, 4);
    send_frame(&line, line.worker, frame, 9 + (size_t)length);
    parcel->at += (uint32_t)length;
    return true;
}

static bool drained(void) { return pipes[0] < 0 && pipes[1] < 0; }

/* Whether there was something to send. */
static bool send_next(void) {
    static char frame[9 + PART];
    if (welcome) {
        frame[0] = 'W';
        frame[1] = phase;
        put_number(frame + 2, ring.begin, 8);
        welcome = false;
        send_frame(&line, line.worker, frame, 10);
        return true;
    }
    if (phase != 'e' && now_boot() >= ask_due) {
        ask_due = now_boot() + (phase == 'w' && !deadline ? LOOK : SECOND / 2);
        asked_at[++asked % QUESTIONS] = now_boot();
        frame[0] = 'Q';
        put_number(frame + 1, asked, 8);
        send_frame(&line, line.worker, frame, 9);
        return true;
    }
    size_t length = read_ring(&ring, &cursor, frame + 9, PART);
    if (length) {
        frame[0] = 'O';
        put_number(frame + 1, cursor, 8);
        send_frame(&line, line.worker, frame, 9 + length);
        cursor += length;
        return true;
    }
    if (send_part(&outcome) || send_part(&state)) return true;
    if (phase == 'e' && !told_end && drained()) {
        frame[0] = 'Z';
        put_number(frame + 1, (uint64_t)code, 4);
        frame[5] = lost;
        told_end = true;
        send_frame(&line, line.worker, frame, 6);
        return true;
    }
    return false;
}

/* --- the bot */

/* A record has whole lines, unless one is long, as in the engine's log. */
static void read_pipe(int index) {
    static char lines[2][PART];
    static size_t kept[2];
    char *buffer = lines[index];
    ssize_t length = read(pipes[index], buffer + kept[index], PART - kept[index]);
    if (length < 0 && (errno == EAGAIN || errno == EINTR)) return;
    size_t size = kept[index] + (length > 0 ? (size_t)length : 0), whole = size;
    if (length > 0 && size < PART) {
        while (whole > 0 && buffer[whole - 1] != '\n') whole--;
    }
    if (whole) add_record(&ring, index == 1, buffer, whole);
    memmove(buffer, buffer + whole, size - whole);
    kept[index] = size - whole;
    if (length <= 0) {
        close(pipes[index]);
        pipes[index] = -1;
    }
}

static void reap_child(void) {
    int how;
    pid_t process;
    while ((process = waitpid(-1, &how, WNOHANG)) > 0) {
        if (process != child || phase != 'r') continue;
        if (getpid() == 1) kill(-1, SIGKILL);
        phase = 'e';
        code = WIFSIGNALED(how) ? 128 + WTERMSIG(how) : WEXITSTATUS(how);
        if (lost) code = LEASE_LOST;
        ended_at = now_boot();
        outcome.at = outcome.size = 0;
        look_at = 0;
    }
}

/* End the bot when its time is over; return when to look again. */
static void keep_lease(nanoseconds now) {
    if (phase != 'r') return;
    bool asked_to_end = final && kill_at >= 0;
    if (!lost && !asked_to_end && now >= deadline - TERM_BEFORE_DEADLINE) {
        lost = true;
        kill(child, SIGTERM);
    }
    if (now >= deadline || (kill_at >= 0 && now >= kill_at)) {
        if (now >= deadline) lost = true;
        kill(getpid() == 1 ? -1 : child, SIGKILL);
    }
}

static void look(nanoseconds now) {
    if (now < look_at) return;
    look_at = now + LOOK;
    drop_unproven(&line);
    if (!line.worker) return;
    look_at_outcome();
    look_at_state();
    look_at_problem();
}

static nanoseconds earliest(nanoseconds a, nanoseconds b) { return a < b ? a : b; }

static void wait_and_move(nanoseconds now) {
    struct pollfd watched[4 + PEERS];
    nanoseconds until = earliest(look_at > now ? look_at : now + LOOK, now + LOOK);
    if (phase == 'r') until = earliest(until, earliest(deadline, lost ? deadline : deadline - TERM_BEFORE_DEADLINE));
    if (phase == 'r' && kill_at >= 0) until = earliest(until, kill_at);
    watched[0] = (struct pollfd){signals, POLLIN, 0};
    watched[1] = (struct pollfd){line.listener, POLLIN, 0};
    for (int i = 0; i < 2; i++) watched[2 + i] = (struct pollfd){pipes[i], POLLIN, 0};
    for (int i = 0; i < PEERS; i++) {
        struct peer *peer = &line.peers[i];
        watched[4 + i] = (struct pollfd){peer->socket, (short)(POLLIN | (can_send(peer) ? 0 : POLLOUT)), 0};
    }
    nanoseconds rest = until > now ? until - now : 0;
    if (phase == 'r' && now >= deadline) rest = SECOND / 100;
    struct timespec time = {rest / SECOND, rest % SECOND};
    ppoll(watched, 4 + PEERS, &time, NULL);
    struct signalfd_siginfo found;
    while (read(signals, &found, sizeof found) == sizeof found) {
        if (found.ssi_signo == SIGCHLD) continue;
        /* The kubelet ends the pod, and kills it after its own grace. */
        if (phase == 'r') kill(child, SIGTERM);
        if (phase == 'w') _exit(LEASE_LOST);
    }
    for (int i = 0; i < 2; i++) {
        if (pipes[i] >= 0 && watched[2 + i].revents) read_pipe(i);
    }
    for (int i = 0; i < PEERS && phase != 's'; i++) {
        struct peer *peer = &line.peers[i];
        if (peer->socket >= 0 && watched[4 + i].revents & POLLOUT) flush_peer(&line, peer);
        if (peer->socket >= 0 && watched[4 + i].revents & ~POLLOUT) read_peer(&line, peer, take);
    }
    if (phase != 's' && watched[1].revents) accept_peers(&line);
}

static void serve(void) {
    nanoseconds begun = now_boot();
    while (phase != 's') {
        nanoseconds now = now_boot();
        keep_lease(now);
        reap_child();
        if (phase == 'e' && now - ended_at > DRAIN) {
            /* A process that left the bot's group holds them. */
            for (int i = 0; i < 2; i++) {
                if (pipes[i] >= 0) close(pipes[i]);
                pipes[i] = -1;
            }
        }
        if (phase == 'w' && now - begun > UNTIL_START) _exit(LEASE_LOST);
        if (phase == 'e' && now - ended_at > UNTIL_TAKEN) _exit(code);
        look(now);
        while (line.worker && can_send(line.worker) && send_next()) flush_peer(&line, line.worker);
        wait_and_move(now);
    }
}

/* --- the beginning */

static bool take_key(void) {
    char *text = getenv("THE0_LINK_KEY");
    if (!text || strlen(text) != 64) return false;
    for (int i = 0; i < 32; i++) {
        char digits[3] = {text[2 * i], text[2 * i + 1], 0}, *end;
        line.key[i] = (unsigned char)strtoul(digits, &end, 16);
        if (*end) return false;
    }
    /* The child and the bot inherit the environment. */
    explicit_bzero(text, 64);
    unsetenv("THE0_LINK_KEY");
    return true;
}

char *const *serve_pod(const char *base, int port) {
    sigset_t handled;
    folder = base;
    umask(022);
    /* Of the bot's user, which could read the key from the memory. */
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&handled);
    sigaddset(&handled, SIGTERM);
    sigaddset(&handled, SIGINT);
    sigaddset(&handled, SIGCHLD);
    sigprocmask(SIG_BLOCK, &handled, NULL);
    signals = signalfd(-1, &handled, SFD_NONBLOCK | SFD_CLOEXEC);
    if (!take_key()) {
        complain("THE0_LINK_KEY must be 64 hexadecimal digits", NULL);
        _exit(2);
    }
    if (!open_ring(&ring, base) || !listen_link(&line, port)) {
        complain("the pod cannot be served", strerror(errno));
        _exit(1);
    }
    serve();
    return words;
}

int install_program(const char *path) {
    static char buffer[CHUNK_BYTES];
    int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    unlink(path);
    int to = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
    ssize_t length = -1;
    while (from >= 0 && to >= 0 && (length = read(from, buffer, sizeof buffer)) > 0) {
        if (!write_all(to, buffer, (size_t)length)) length = -1;
    }
    if (length) complain("the program cannot be copied", strerror(errno));
    return length ? 1 : 0;
}
