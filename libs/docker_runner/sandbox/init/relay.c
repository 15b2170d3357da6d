/* Relays queries to the process that answers them, in a running container.
 *
 * The worker starts it by the engine, as root of the container, and speaks to it over standard input and output: there
 * is no network between them. It starts the query process at the first query, as a user of its own, and again after its
 * end, with backoff. Of what the query process sends nothing is parsed here.
 *
 * Both directions carry frames: a kind, the number of a stream, two zeros, and the size of what follows, four bytes from
 * the lowest on.
 *
 *     'Q' stream request     to the relay: connect to the query process, and send the request
 *     'C' stream             to the relay: end the stream; its 'E' or 'X' comes all the same
 *     'D' stream bytes       from the relay: what the query process sent
 *     'E' stream             from the relay: the query process has closed the connection
 *     'X' stream text        from the relay: the query process has ended: how, a newline, and its last output
 */

#include "init.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PORT 9476
#define STREAMS 16
#define HEADER_BYTES 8
#define REQUEST_BYTES 65536
#define PIECE_BYTES 16384
#define TAIL_BYTES 2048
#define CONNECT_AGAIN (SECOND / 100)
/* How much later than the end of its connections the end of a process is seen. */
#define END_SEEN (SECOND / 5)
#define FIRST_BACKOFF SECOND
#define LONGEST_BACKOFF (60 * SECOND)
/* After so long a life the process is started again at once. */
#define FORGIVEN (60 * SECOND)

enum state { FREE, WAITING, CONNECTING, OPEN, SILENT, CLOSED, FAILED };

struct question {
    enum state state;
    int connection;
    nanoseconds at; /* when to connect again, or to give up on the end of the process */
    bool answered;
    size_t size, sent;
    char request[REQUEST_BYTES];
};

static const struct spec *spec;
/* Not in the memory of the program, which the init of each container locks. */
static struct {
    struct question questions[STREAMS];
    char frame[HEADER_BYTES + REQUEST_BYTES], out[HEADER_BYTES + PIECE_BYTES], piece[PIECE_BYTES];
    char text[64 + 1 + TAIL_BYTES];
} *buffers;
static struct question *questions;
static char *frame, *out, tail[TAIL_BYTES], ending[64];
static size_t frame_size, out_begin, out_end, tail_size;
static pid_t process;
static int output = -1, signals, log_pipe = -1;
static nanoseconds started_at, start_at, backoff = FIRST_BACKOFF;

static nanoseconds now(void) { return clock_now(CLOCK_MONOTONIC); }

/* --- the query process */

/* End what an earlier relay has left: everything of the user for queries. */
static void end_others(void) {
    pid_t killer = fork();
    if (killer == 0) {
        if (!setresuid(spec->query_uid, spec->query_uid, spec->query_uid)) kill(-1, SIGKILL);
        _exit(0);
    }
    if (killer > 0) waitpid(killer, NULL, 0);
}

static void start_process(void) {
    int ends[2];
    if (output >= 0) close(output);
    output = -1;
    tail_size = 0;
    started_at = now();
    if (pipe2(ends, O_CLOEXEC)) return;
    int writer = fcntl(ends[1], F_DUPFD_CLOEXEC, 10);
    close(ends[1]);
    process = writer < 0 ? -1 : fork();
    if (process == 0) become_query_process(spec, writer);
    if (writer >= 0) close(writer);
    if (process < 0) {
        process = 0;
        snprintf(ending, sizeof ending, "it cannot be started: %s", strerror(errno));
        close(ends[0]);
        return;
    }
    output = ends[0];
    fcntl(output, F_SETFL, O_NONBLOCK);
}

static void keep_tail(const char *data, size_t size) {
    if (size >= TAIL_BYTES) {
        data += size - TAIL_BYTES;
        size = TAIL_BYTES;
    }
    size_t kept = tail_size + size > TAIL_BYTES ? TAIL_BYTES - size : tail_size;
    memmove(tail, tail + tail_size - kept, kept);
    memcpy(tail + kept, data, size);
    tail_size = kept + size;
}

static void read_output(void) {
    char *piece = buffers->piece;
    ssize_t size = read(output, piece, PIECE_BYTES);
    if (size > 0) {
        keep_tail(piece, (size_t)size);
        /* What the init has no room for is lost: a query must not wait for the log. */
        if (log_pipe >= 0 && write(log_pipe, piece, (size_t)size) < 0) return;
    } else if (size == 0 || (errno != EAGAIN && errno != EINTR)) {
        close(output);
        output = -1;
    }
}

static void let_fail(void) {
    for (int i = 0; i < STREAMS; i++) {
        struct question *question = &questions[i];
        if (question->state == CONNECTING) close(question->connection);
        if (question->state == WAITING || question->state == CONNECTING || question->state == SILENT) {
            question->state = FAILED;
        }
    }
}

static void reap_process(void) {
    int how;
    pid_t ended;
    while ((ended = waitpid(-1, &how, WNOHANG)) > 0) {
        if (ended != process) continue;
        process = 0;
        if (output >= 0) read_output();
        if (WIFSIGNALED(how)) {
            snprintf(ending, sizeof ending, "it was ended by signal %d", WTERMSIG(how));
        } else {
            snprintf(ending, sizeof ending, "it ended with exit code %d", WEXITSTATUS(how));
        }
        if (now() - started_at >= FORGIVEN) backoff = FIRST_BACKOFF;
        start_at = now() + backoff;
        backoff = backoff * 2 > LONGEST_BACKOFF ? LONGEST_BACKOFF : backoff * 2;
        let_fail();
    }
}

/* --- frames to the worker */

/* `data` may be in its place already. */
static void put(char kind, int stream, const char *data, size_t size) {
    memset(out, 0, HEADER_BYTES);
    out[0] = kind;
    out[1] = (char)stream;
    for (int i = 0; i < 4; i++) out[4 + i] = (char)(size >> (8 * i));
    if (size) memmove(out + HEADER_BYTES, data, size);
    out_begin = 0;
    out_end = HEADER_BYTES + size;
}

static void put_failure(int stream) {
    char *text = buffers->text;
    size_t size = strlen(ending);
    memcpy(text, ending, size);
    text[size++] = '\n';
    memcpy(text + size, tail, tail_size);
    put('X', stream, text, size + tail_size);
}

/* Write what is there; false when the worker has gone. */
static bool flush_out(void) {
    while (out_begin < out_end) {
        ssize_t size = write(1, out + out_begin, out_end - out_begin);
        if (size < 0) return errno == EAGAIN || errno == EINTR;
        out_begin += (size_t)size;
    }
    return true;
}

/* --- one question */

static void connect_later(struct question *question) {
    question->state = WAITING;
    question->at = now() + CONNECT_AGAIN;
}

static void connect_to_process(struct question *question) {
    static bool sixth;
    struct sockaddr_in fourth_address = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    struct sockaddr_in6 sixth_address = {.sin6_family = AF_INET6, .sin6_port = htons(PORT), .sin6_addr = in6addr_loopback};
    fourth_address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    question->connection = socket(sixth ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    const void *address = sixth ? (const void *)&sixth_address : (const void *)&fourth_address;
    socklen_t size = sixth ? sizeof sixth_address : sizeof fourth_address;
    if (question->connection >= 0 && !connect(question->connection, address, size)) {
        question->state = OPEN;
    } else if (question->connection >= 0 && errno == EINPROGRESS) {
        question->state = CONNECTING;
    } else {
        /* It may listen at either of them. */
        if (question->connection >= 0) close(question->connection);
        sixth = !sixth;
        connect_later(question);
    }
}

static void begin(int stream, const char *request, size_t size) {
    struct question *question = &questions[stream];
    if (question->state != FREE) return;
    memcpy(question->request, request, size);
    question->size = size;
    question->sent = 0;
    question->answered = false;
    if (!process && now() >= start_at) start_process();
    question->state = process ? WAITING : FAILED;
    question->at = 0;
}

static void end(struct question *question) {
    if (question->state == CONNECTING || question->state == OPEN) close(question->connection);
    if (question->state != FREE && question->state != FAILED) question->state = CLOSED;
}

static void send_request(struct question *question) {
    ssize_t sent = send(question->connection, question->request + question->sent, question->size - question->sent,
                        MSG_NOSIGNAL);
    if (sent > 0) question->sent += (size_t)sent;
    /* Its answer may be there all the same. */
    if (sent < 0 && errno != EAGAIN && errno != EINTR) question->sent = question->size;
}

static void read_answer(int stream) {
    struct question *question = &questions[stream];
    char *piece = out + HEADER_BYTES;
    ssize_t size = recv(question->connection, piece, PIECE_BYTES, 0);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (size > 0) {
        put('D', stream, piece, (size_t)size);
        question->answered = true;
        return;
    }
    close(question->connection);
    question->state = question->answered ? CLOSED : SILENT;
    if (!question->answered && !process) question->state = FAILED;
    question->at = now() + END_SEEN;
}

static void finish_connecting(struct question *question) {
    int error = 0;
    socklen_t size = sizeof error;
    if (!getsockopt(question->connection, SOL_SOCKET, SO_ERROR, &error, &size) && !error) {
        question->state = OPEN;
        return;
    }
    close(question->connection);
    connect_later(question);
}

/* Do what is due without waiting for a descriptor. */
static void advance(int stream) {
    struct question *question = &questions[stream];
    if (question->state == WAITING && now() >= question->at) connect_to_process(question);
    if (question->state == SILENT && now() >= question->at) question->state = CLOSED;
    if (out_begin < out_end) return;
    if (question->state == CLOSED) put('E', stream, NULL, 0);
    if (question->state == FAILED) put_failure(stream);
    if (question->state == CLOSED || question->state == FAILED) question->state = FREE;
}

/* --- frames from the worker */

static size_t wanted(void) {
    if (frame_size < HEADER_BYTES) return HEADER_BYTES;
    size_t size = 0;
    for (int i = 0; i < 4; i++) size |= (size_t)(unsigned char)frame[4 + i] << (8 * i);
    return HEADER_BYTES + size;
}

/* Read and carry out; false when the worker has gone, or does not speak this protocol. */
static bool take_input(void) {
    ssize_t size = read(0, frame + frame_size, wanted() - frame_size);
    if (size < 0) return errno == EAGAIN || errno == EINTR;
    if (size == 0) return false;
    frame_size += (size_t)size;
    if (frame_size < HEADER_BYTES) return true;
    int stream = (unsigned char)frame[1];
    if (wanted() > HEADER_BYTES + REQUEST_BYTES || stream >= STREAMS) return false;
    if (frame_size < wanted()) return true;
    if (frame[0] == 'Q') begin(stream, frame + HEADER_BYTES, frame_size - HEADER_BYTES);
    if (frame[0] == 'C') end(&questions[stream]);
    frame_size = 0;
    return true;
}

/* --- all of it */

/* Wait, and move what is there; false at the end. */
static bool step(void) {
    enum { INPUT, OUTPUT, SIGNALS, LOG, FIRST };
    bool is_full = out_begin < out_end;
    struct pollfd watched[FIRST + STREAMS] = {
        {0, POLLIN, 0}, {is_full ? 1 : -1, POLLOUT, 0}, {signals, POLLIN, 0}, {output, POLLIN, 0}};
    nanoseconds wait = 60 * SECOND;
    for (int i = 0; i < STREAMS; i++) {
        struct question *question = &questions[i];
        short events = 0;
        if (question->state == CONNECTING) events = POLLOUT;
        if (question->state == OPEN && question->sent < question->size) events |= POLLOUT;
        if (question->state == OPEN && !is_full) events |= POLLIN;
        watched[FIRST + i] = (struct pollfd){events ? question->connection : -1, events, 0};
        bool is_due = question->state == WAITING || question->state == SILENT;
        if (is_due && question->at - now() < wait) wait = question->at - now();
        if (!is_full && (question->state == CLOSED || question->state == FAILED)) wait = 0;
    }
    if (wait < 0) wait = 0;
    struct timespec time = {wait / SECOND, wait % SECOND};
    if (ppoll(watched, FIRST + STREAMS, &time, NULL) < 0 && errno != EINTR) return false;
    struct signalfd_siginfo taken;
    if (watched[SIGNALS].revents) (void)!read(signals, &taken, sizeof taken);
    if (watched[LOG].revents) read_output();
    reap_process();
    if (watched[INPUT].revents && !take_input()) return false;
    if (watched[OUTPUT].revents & (POLLERR | POLLHUP)) return false;
    for (int i = 0; i < STREAMS; i++) {
        struct question *question = &questions[i];
        short found = watched[FIRST + i].revents;
        if (question->state == CONNECTING && found) finish_connecting(question);
        if (question->state == OPEN && found & POLLOUT) send_request(question);
        if (question->state == OPEN && found & (POLLIN | POLLHUP | POLLERR) && out_begin >= out_end) read_answer(i);
        advance(i);
        if (!flush_out()) return false;
    }
    return true;
}

int relay_queries(const struct spec *given) {
    spec = given;
    if (!is_other_user(spec) || spec->query_uid == (uid_t)-1) {
        complain("this container has no user for queries", NULL);
        return 1;
    }
    buffers = mmap(NULL, sizeof *buffers, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffers == MAP_FAILED) {
        complain("no memory for queries", strerror(errno));
        return 1;
    }
    questions = buffers->questions;
    frame = buffers->frame;
    out = buffers->out;
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    sigset_t handled;
    sigemptyset(&handled);
    sigaddset(&handled, SIGCHLD);
    sigprocmask(SIG_BLOCK, &handled, NULL);
    signals = signalfd(-1, &handled, SFD_NONBLOCK | SFD_CLOEXEC);
    signal(SIGPIPE, SIG_IGN);
    for (int i = 0; i < 2; i++) fcntl(i, F_SETFL, fcntl(i, F_GETFL) | O_NONBLOCK);
    char path[PATH_BYTES];
    join(path, spec->base, QUERY_OUTPUT);
    log_pipe = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    end_others();
    while (step()) continue;
    if (process) kill(-process, SIGKILL);
    return 0;
}
