/* From a child of the init to the bot: another user, no privileges, nothing of the init's in reach. */

#include "init.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <fcntl.h>

#define NICENESS 5
#define EXIT_NO_BOT 127

static _Noreturn void fail(const char *what) {
    complain(what, strerror(errno));
    _exit(EXIT_NO_BOT);
}

/* Within the container the init comes first, for the CPU as for the memory, and on the host everything else does. */
static void step_back(void) {
    nice(NICENESS);
    int file = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (file >= 0) {
        write_all(file, "1000", 4);
        close(file);
    }
}

bool is_other_user(const struct spec *spec) { return geteuid() == 0 && spec->uid != 0; }

bool drop_capabilities(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0}};
    return !syscall(SYS_capset, &header, none);
}

static void drop_privileges(const struct spec *spec, uid_t uid) {
    if (is_other_user(spec)) {
        if (setgroups(0, NULL) || setresgid(spec->gid, spec->gid, spec->gid)) fail("the bot's group cannot be taken");
        if (setresuid(uid, uid, uid)) fail("the bot's user cannot be taken");
    }
    if (!drop_capabilities()) fail("the capabilities cannot be dropped");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) fail("new privileges cannot be refused");
}

static _Noreturn void become_command(const struct spec *spec) {
    signal(SIGPIPE, SIG_DFL);
    signal(SIGXFSZ, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execvp(spec->command[0], spec->command);
    fail(spec->command[0]);
}

static void close_kernel_to_it(void) {
    /* EINVAL: a kernel without filters, where the engine's is missing as well. */
    if (!close_kernel() && errno != EINVAL) fail("the kernel cannot be closed to the bot");
}

_Noreturn void become_bot(const struct spec *spec, int output, int errors, int result) {
    pid_t init = getppid();
    bool other_user = is_other_user(spec);
    /* Or its own files in /proc are closed to it. */
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    setsid();
    step_back();
    /* None of them is 3 or below: see main.c. */
    if (dup2(output, 1) < 0 || dup2(errors, 2) < 0 || dup2(result, 3) < 0) fail("the bot's output cannot be opened");
    syscall(SYS_close_range, 4, ~0U, 0);
    drop_privileges(spec, spec->uid);
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    /* First: the other one lets no further filter be installed. */
    if (!other_user && !install_filter(init)) fail("the init cannot be closed to the bot");
    close_kernel_to_it();
    become_command(spec);
}

_Noreturn void become_query_process(const struct spec *spec, int output) {
    pid_t relay = getppid();
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    setsid();
    step_back();
    int null = open("/dev/null", O_RDWR | O_CLOEXEC), nothing = fcntl(null, F_DUPFD_CLOEXEC, 10);
    /* The bot's process has its result there; this one has none. */
    if (dup2(nothing, 0) < 0 || dup2(nothing, 3) < 0 || dup2(output, 1) < 0 || dup2(output, 2) < 0) {
        fail("the output of the query process cannot be opened");
    }
    syscall(SYS_close_range, 4, ~0U, 0);
    drop_privileges(spec, spec->query_uid);
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (getppid() != relay) _exit(EXIT_NO_BOT);
    close_kernel_to_it();
    become_command(spec);
}
