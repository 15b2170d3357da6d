/* The bot's persistent state: the files in /state, unpacked before the bot starts and packed whenever they changed.
 *
 *     private/state/restore.tar   from the worker: what to begin with
 *     private/state/saved         the latest archive; replaced as a whole, so that a reader never sees half of one
 *     private/state/problem       one word: why the latest state is not saved, or not all of it
 *
 * The folder is open to all, below one that only root of the container may enter. An archive is a tar of regular files
 * and folders alone. The files belong to the bot, which may change them at any time: they are opened as the bot may
 * open them, through descriptors of their folders, and no link is followed. The process that packs has the bot's
 * effective user and the init's real one, so that the bot can neither signal nor trace it.
 */

#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 512
#define NAME_BYTES 100
#define MOST_PATH 1024
#define MOST_DEPTH 16
#define MOST_FILE_BYTES 077777777777LL
#define LOOK (SECOND / 2)
/* A file that is being written must not be packed half written, unless something is written all the time. */
#define PAUSE (2 * SECOND)
#define PATIENCE (3 * SECOND)
/* A bot that changes a large state all the time must not fill the disk's and the network's time with it. */
#define BYTES_PER_SECOND (2LL << 20)
#define MOST_TRIES 3
#define COST 50
#define UNPACK (120 * SECOND)

struct walk {
    int64_t most_bytes, most_files, bytes, files;
    uint64_t signature;
    const char *problem; /* NULL: none */
    bool fatal;          /* the problem leaves no archive */
    bool packing, torn;
    int archive;
    size_t length;
    char path[MOST_PATH + 2];
};

struct linux_dirent64 {
    uint64_t inode;
    int64_t offset;
    unsigned short size;
    unsigned char kind;
    char name[];
};

/* Shared with the processes of the init: the signature of what is packed already. */
static volatile uint64_t *known;
static int root = -1, channel = -1;
/* The state is another user's than the bot's, which can only read it: that of a container that answers a question. */
static bool read_only;

/* --- who and where */

static bool take_user(const struct spec *spec) {
    if (!is_other_user(spec)) return true;
    return !setgroups(0, NULL) && !setresgid(-1, spec->gid, -1) && !setresuid(-1, spec->uid, -1);
}

static void close_process(void) {
    drop_capabilities();
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

static bool open_folders(const struct spec *spec) {
    char path[PATH_BYTES];
    join(path, spec->base, "private/state");
    /* Where the init may not be root, neither may it open the folder, and nothing is kept. */
    channel = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct stat about;
    if (stat(spec->state, &about)) return false;
    read_only = about.st_uid != spec->uid;
    if (!read_only && !take_user(spec)) return false;
    root = open(spec->state, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    return root >= 0;
}

/* --- walk */

static void hash(struct walk *walk, const void *data, size_t size) {
    const unsigned char *bytes = data;
    for (size_t i = 0; i < size; i++) walk->signature = (walk->signature ^ bytes[i]) * 0x100000001b3ULL;
}

static void give_up(struct walk *walk, const char *problem) {
    walk->problem = problem;
    walk->fatal = true;
}

static void put(struct walk *walk, const char *data, size_t size) {
    if (walk->packing && !walk->fatal && !write_all(walk->archive, data, size)) give_up(walk, "disk");
}

static void put_padding(struct walk *walk, int64_t size) {
    static const char zeros[BLOCK];
    put(walk, zeros, (size_t)((BLOCK - size % BLOCK) % BLOCK));
}

static void put_block(struct walk *walk, const char *name, char kind, unsigned mode, int64_t size, int64_t time) {
    char block[BLOCK];
    memset(block, 0, sizeof block);
    size_t length = strlen(name);
    memcpy(block, name, length < NAME_BYTES ? length : NAME_BYTES);
    snprintf(block + 100, 8, "%07o", mode);
    snprintf(block + 108, 8, "%07o", 0u);
    snprintf(block + 116, 8, "%07o", 0u);
    snprintf(block + 124, 12, "%011llo", (unsigned long long)size);
    snprintf(block + 136, 12, "%011llo", (unsigned long long)(time < 0 || time > MOST_FILE_BYTES ? 0 : time));
    memset(block + 148, ' ', 8);
    block[156] = kind;
    memcpy(block + 257, "ustar  ", 8);
    unsigned sum = 0;
    for (size_t i = 0; i < sizeof block; i++) sum += (unsigned char)block[i];
    snprintf(block + 148, 8, "%06o", sum);
    put(walk, block, sizeof block);
}

static void put_header(struct walk *walk, char kind, const struct stat *about) {
    if (!walk->packing) return;
    if (walk->length > NAME_BYTES) {
        put_block(walk, "././@LongLink", 'L', 0, (int64_t)walk->length + 1, 0);
        put(walk, walk->path, walk->length + 1);
        put_padding(walk, (int64_t)walk->length + 1);
    }
    put_block(walk, walk->path, kind, about->st_mode & 0777, kind == '0' ? about->st_size : 0, about->st_mtim.tv_sec);
}

static void put_file(struct walk *walk, int file, int64_t size) {
    static char buffer[CHUNK_BYTES];
    for (int64_t left = size; left > 0 && !walk->fatal;) {
        ssize_t length = read(file, buffer, left < CHUNK_BYTES ? (size_t)left : CHUNK_BYTES);
        if (length < 0 && errno == EINTR) continue;
        if (length <= 0) {
            /* It has become shorter. */
            walk->torn = true;
            length = left < CHUNK_BYTES ? (ssize_t)left : CHUNK_BYTES;
            memset(buffer, 0, (size_t)length);
        }
        put(walk, buffer, (size_t)length);
        left -= length;
    }
    put_padding(walk, size);
}

static void visit_folder(struct walk *walk, int folder, unsigned depth);

static void visit(struct walk *walk, int folder, const char *name, unsigned depth) {
    struct stat about;
    if (fstatat(folder, name, &about, AT_SYMLINK_NOFOLLOW)) {
        walk->torn = true;
        return;
    }
    size_t before = walk->length, length = strlen(name);
    if (before + length + 1 > MOST_PATH || depth > MOST_DEPTH) {
        give_up(walk, "too-deep");
        return;
    }
    bool is_folder = S_ISDIR(about.st_mode);
    memcpy(walk->path + before, name, length);
    walk->length = before + length;
    if (is_folder) walk->path[walk->length++] = '/';
    walk->path[walk->length] = 0;
    uint64_t rest = walk->signature;
    walk->signature = 0xcbf29ce484222325ULL;
    hash(walk, walk->path, walk->length);
    hash(walk, &about.st_ino, sizeof about.st_ino);
    hash(walk, &about.st_mode, sizeof about.st_mode);
    if (!is_folder) {
        hash(walk, &about.st_size, sizeof about.st_size);
        hash(walk, &about.st_mtim, sizeof about.st_mtim);
        hash(walk, &about.st_ctim, sizeof about.st_ctim);
    }
    /* The order of the entries is of no importance. */
    walk->signature += rest;
    if (++walk->files > walk->most_files) {
        give_up(walk, "too-many-files");
    } else if (!is_folder && !S_ISREG(about.st_mode)) {
        walk->problem = "no-file";
    } else {
        int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | (is_folder ? O_DIRECTORY : 0);
        int file = openat(folder, name, flags);
        if (file < 0 || fstat(file, &about) || S_ISDIR(about.st_mode) != is_folder) {
            if (file < 0 && errno == EACCES) give_up(walk, "unreadable");
            walk->torn = true;
        } else if (is_folder) {
            put_header(walk, '5', &about);
            visit_folder(walk, file, depth + 1);
        } else if (!S_ISREG(about.st_mode)) {
            walk->torn = true;
        } else if (about.st_size > MOST_FILE_BYTES || about.st_size > walk->most_bytes - walk->bytes) {
            give_up(walk, "too-large");
        } else {
            walk->bytes += about.st_size;
            put_header(walk, '0', &about);
            if (walk->packing) put_file(walk, file, about.st_size);
        }
        if (file >= 0) close(file);
    }
    walk->length = before;
    walk->path[before] = 0;
}

static void visit_folder(struct walk *walk, int folder, unsigned depth) {
    char buffer[2048] __attribute__((aligned(8)));
    lseek(folder, 0, SEEK_SET);
    for (;;) {
        long length = syscall(SYS_getdents64, folder, buffer, sizeof buffer);
        if (length < 0) walk->torn = true;
        if (length <= 0) return;
        for (long at = 0; at < length;) {
            const struct linux_dirent64 *entry = (const void *)(buffer + at);
            at += entry->size;
            if (!strcmp(entry->name, ".") || !strcmp(entry->name, "..")) continue;
            visit(walk, folder, entry->name, depth);
            if (walk->fatal) return;
        }
    }
}

static void look(const struct spec *spec, struct walk *walk, int archive) {
    memset(walk, 0, sizeof *walk);
    walk->most_bytes = spec->state_bytes;
    walk->most_files = spec->state_files;
    walk->packing = archive >= 0;
    walk->archive = archive;
    visit_folder(walk, root, 1);
    struct statvfs left;
    /* A file that was written into a full folder may be cut off. */
    if (!walk->fatal && !fstatvfs(root, &left) && left.f_blocks && !left.f_bavail) give_up(walk, "too-large");
}

/* --- pack */

static void note(const char *problem) {
    static const char *noted = "unknown";
    if (problem == noted) return;
    noted = problem;
    if (!problem) {
        unlinkat(channel, "problem", 0);
        return;
    }
    unlinkat(channel, "problem.new", 0);
    int file = openat(channel, "problem.new", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (file < 0) return;
    bool written = write_all(file, problem, strlen(problem));
    close(file);
    if (written) renameat(channel, "problem.new", channel, "problem");
}

enum packed { DONE, CHANGED, NO_DISK };

/* Pack what was seen as `seen`. One that changes meanwhile is dropped, unless that is taken. */
static enum packed pack(const struct spec *spec, uint64_t seen, bool take_changing) {
    static struct walk walk, after;
    static const char end[2 * BLOCK];
    unlinkat(channel, "new", 0);
    int archive = openat(channel, "new", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (archive < 0) {
        note("disk");
        return NO_DISK;
    }
    fchmod(archive, 0644);
    look(spec, &walk, archive);
    put(&walk, end, sizeof end);
    if (close(archive) && !walk.fatal) give_up(&walk, "disk");
    look(spec, &after, -1);
    bool same = !walk.torn && walk.signature == seen && after.signature == seen;
    if (!walk.fatal && after.fatal) give_up(&walk, after.problem);
    if (!same && !take_changing) {
        unlinkat(channel, "new", 0);
        return CHANGED;
    }
    if (!walk.fatal && renameat(channel, "new", channel, "saved")) give_up(&walk, "disk");
    if (walk.fatal) unlinkat(channel, "new", 0);
    note(walk.problem);
    return walk.fatal && !strcmp(walk.problem, "disk") ? NO_DISK : DONE;
}

void keep_state(const struct spec *spec) {
    static struct walk walk;
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    syscall(SYS_close_range, 0, ~0U, 0);
    if (!open_folders(spec) || channel < 0) _exit(1);
    close_process();
    /* The change of user has cleared it. */
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    uint64_t seen = *known;
    nanoseconds changed_at = -1, packed_at = -1, pause = PAUSE, wait = LOOK;
    unsigned tries = 0;
    for (;;) {
        struct timespec time = {wait / SECOND, wait % SECOND};
        nanosleep(&time, NULL);
        nanoseconds now = clock_now(CLOCK_MONOTONIC);
        look(spec, &walk, -1);
        nanoseconds took = clock_now(CLOCK_MONOTONIC) - now;
        wait = took * COST > LOOK ? took * COST : LOOK;
        bool quiet = walk.signature == seen;
        seen = walk.signature;
        if (seen == *known) {
            changed_at = -1;
            continue;
        }
        if (changed_at < 0) changed_at = now;
        if (packed_at >= 0 && now - packed_at < pause) continue;
        if (!quiet && now - changed_at < PATIENCE) continue;
        enum packed end = pack(spec, seen, ++tries >= MOST_TRIES);
        if (end == CHANGED) continue;
        packed_at = clock_now(CLOCK_MONOTONIC);
        pause = PAUSE + walk.bytes / BYTES_PER_SECOND * SECOND;
        if (end == NO_DISK) continue;
        *known = seen;
        changed_at = -1;
        tries = 0;
    }
}

void save_last_state(const struct spec *spec) {
    static struct walk walk;
    if (open_folders(spec) && channel >= 0) {
        look(spec, &walk, -1);
        if (walk.signature != *known) pack(spec, walk.signature, true);
    }
    if (geteuid() != getuid()) {
        setresuid(-1, getuid(), -1);
        setresgid(-1, getgid(), -1);
    }
}

/* --- unpack */

static bool read_all(int file, char *data, size_t size) {
    while (size) {
        ssize_t length = read(file, data, size);
        if (length < 0 && errno == EINTR) continue;
        if (length <= 0) return false;
        data += length;
        size -= (size_t)length;
    }
    return true;
}

static bool octal(const char *text, size_t size, int64_t *value) {
    *value = 0;
    for (size_t i = 0; i < size && text[i] && text[i] != ' '; i++) {
        if (text[i] < '0' || text[i] > '7') return false;
        *value = *value * 8 + (text[i] - '0');
    }
    return true;
}

static bool unpack_file(int archive, const char *path, unsigned mode, int64_t size, int64_t time) {
    static char buffer[CHUNK_BYTES];
    int file = openat(root, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0) return false;
    bool good = true;
    for (int64_t left = size; good && left > 0;) {
        size_t length = left < CHUNK_BYTES ? (size_t)left : CHUNK_BYTES;
        good = read_all(archive, buffer, length) && write_all(file, buffer, length);
        left -= (int64_t)length;
    }
    good = good && read_all(archive, buffer, (size_t)((BLOCK - size % BLOCK) % BLOCK));
    struct timespec times[2] = {{time, 0}, {time, 0}};
    good = good && !fchmod(file, read_only ? mode | 0444 : mode);
    if (good) futimens(file, times);
    return !close(file) && good;
}

/* The worker has checked the archive: an entry is a file or a folder below the root, and comes after its folder. */
static bool unpack(int archive) {
    static char long_path[MOST_PATH + BLOCK];
    char block[BLOCK], path[NAME_BYTES + 1];
    bool is_long = false;
    for (;;) {
        int64_t mode, size, time;
        if (!read_all(archive, block, sizeof block)) return false;
        if (!block[0]) return true;
        if (!octal(block + 100, 8, &mode) || !octal(block + 124, 12, &size) || !octal(block + 136, 12, &time)) return false;
        if (block[156] == 'L') {
            int64_t whole = (size + BLOCK - 1) / BLOCK * BLOCK;
            if (size < 1 || size > MOST_PATH + 1 || !read_all(archive, long_path, (size_t)whole)) return false;
            long_path[size - 1] = 0;
            is_long = true;
            continue;
        }
        memcpy(path, block, NAME_BYTES);
        path[NAME_BYTES] = 0;
        const char *name = is_long ? long_path : path;
        is_long = false;
        if (block[156] == '5') {
            if (mkdirat(root, name, ((mode_t)mode & 0777) | (read_only ? 0755 : 0700)) && errno != EEXIST) return false;
        } else if (block[156] != '0' || !unpack_file(archive, name, (mode_t)mode & 0777, size, time)) {
            return false;
        }
    }
}

static _Noreturn void begin(const struct spec *spec) {
    static struct walk walk;
    umask(022);
    if (!open_folders(spec)) _exit(1);
    close_process();
    if (spec->state_restored) {
        int archive = openat(channel, "restore.tar", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (archive < 0 || !unpack(archive)) _exit(1);
        close(archive);
        unlinkat(channel, "restore.tar", 0);
    }
    if (mkdirat(root, ".the0-state", 0755) && errno != EEXIST) _exit(1);
    look(spec, &walk, -1);
    *known = walk.signature;
    _exit(0);
}

bool begin_state(const struct spec *spec) {
    void *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) return false;
    known = shared;
    pid_t child = fork();
    if (child < 0) return false;
    if (child == 0) begin(spec);
    sigset_t ended;
    sigemptyset(&ended);
    sigaddset(&ended, SIGCHLD);
    nanoseconds until = clock_now(CLOCK_MONOTONIC) + UNPACK;
    for (;;) {
        int how;
        if (waitpid(child, &how, WNOHANG) == child) return WIFEXITED(how) && WEXITSTATUS(how) == 0;
        if (clock_now(CLOCK_MONOTONIC) > until) {
            kill(child, SIGKILL);
            return false;
        }
        sigtimedwait(&ended, NULL, &(struct timespec){0, SECOND / 10});
    }
}
