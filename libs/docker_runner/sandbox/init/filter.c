/* Two filters of system calls. The engine's own comes first, and differs with the engine's version and settings.
 *
 * One is for every bot: it refuses sockets that lead around the rules of the bots' network, such as those of a virtual
 * machine's host (AF_VSOCK), and the parts of the kernel that serve no bot and are attacked most. A ring of io_uring would
 * make such sockets without a system call that a filter sees. It refuses namespaces and mounts, with which a bot would be
 * root of a network and of files of its own. And it refuses what the kernel has one pool of for all users: memory for
 * compiled filters, without which no container starts, contexts of asynchronous input and output, and huge pages.
 *
 * The other is for a bot that has the init's user: it refuses the calls by which it could touch the init.
 *
 * A filter sees numbers and no processes. So calls that change a process are refused unless they name the caller by 0;
 * a thread that names itself by its own number is refused as well. Calls that only read are let pass.
 */

#include "init.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#define MOST_NUMBER 0x3fffffff /* above it are the calls of x32 */
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#define MOST_NUMBER 0x7fffffff
#else
#error "no filter for this architecture"
#endif

/* Newer than the headers of some compilers; one number for all architectures. */
#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif
#ifndef SYS_process_mrelease
#define SYS_process_mrelease 448
#endif
#ifndef SYS_io_uring_setup
#define SYS_io_uring_setup 425
#define SYS_io_uring_enter 426
#define SYS_io_uring_register 427
#endif
#ifndef SYS_open_tree
#define SYS_open_tree 428
#define SYS_move_mount 429
#define SYS_fsopen 430
#define SYS_fspick 433
#endif
#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#ifndef SYS_open_tree_attr
#define SYS_open_tree_attr 467
#endif
/* Of mmap, memfd_create and shmget: pages of a pool that root of the host has set aside. */
#define HUGE_MAP 0x40000
#define HUGE_FILE 0x4
#define HUGE_SHARED 04000
/* Of clone: time is only in clone3. */
#define NAMESPACES 0x7e020000
#define MPTCP 262 /* what a server in Go listens on by itself */
#define SOCKET_TYPE 0xf

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define LOAD_LOW(index) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args) + 8 * (index))
#define LOAD_HIGH(index) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args) + 8 * (index) + 4)
#define IF_EQUAL(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(value), yes, no)
#define IF_ABOVE(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, (uint32_t)(value), yes, no)
#define IF_ANY_BIT(bits, yes, no) BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, (uint32_t)(bits), yes, no)
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define REFUSE BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM)
/* As of a kernel without the call, so that libraries use another one. */
#define UNKNOWN BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS)
#define KILL BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)

/* Begins a program: the number of the call in the accumulator. A call of another architecture comes to `foreign`. */
#define BEGIN(foreign) \
    LOAD(arch), IF_EQUAL(ARCHITECTURE, 1, 0), foreign, LOAD(nr), IF_ABOVE(MOST_NUMBER, 0, 1), REFUSE
/* Each of these begins and ends with the number of the call in the accumulator, or ends the program. */
#define NEVER(call) IF_EQUAL(call, 0, 1), REFUSE
#define NEVER_WITH(call, index, bits) \
    IF_EQUAL(call, 0, 4), LOAD_LOW(index), IF_ANY_BIT(bits, 0, 1), REFUSE, ALLOW
#define NOT_TO(call, index, process) \
    IF_EQUAL(call, 0, 4), LOAD_LOW(index), IF_EQUAL(process, 0, 1), REFUSE, ALLOW
#define NOT_TO_EITHER(call, process) \
    IF_EQUAL(call, 0, 6), LOAD_LOW(0), IF_EQUAL(process, 2, 0), LOAD_LOW(1), IF_EQUAL(process, 0, 1), REFUSE, ALLOW
#define ONLY_OWN(call) IF_EQUAL(call, 0, 4), LOAD_LOW(0), IF_EQUAL(0, 1, 0), REFUSE, ALLOW
/* By user, or another than the own process or group: refused. */
#define ONLY_OWN_WHO(call, user) \
    IF_EQUAL(call, 0, 6), LOAD_LOW(0), IF_EQUAL(user, 2, 0), LOAD_LOW(1), IF_EQUAL(0, 1, 0), REFUSE, ALLOW

static bool install(struct sock_filter *program, size_t length) {
    struct sock_fprog filter = {(unsigned short)length, program};
    return !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0);
}

bool close_kernel(void) {
    struct sock_filter program[] = {
        BEGIN(REFUSE),
        NEVER(SYS_io_uring_setup),
        NEVER(SYS_io_uring_enter),
        NEVER(SYS_io_uring_register),
        NEVER(SYS_bpf),
        NEVER(SYS_perf_event_open),
        NEVER(SYS_userfaultfd),
        NEVER(SYS_keyctl),
        NEVER(SYS_add_key),
        NEVER(SYS_request_key),
        NEVER(SYS_io_setup),
        NEVER(SYS_unshare),
        NEVER(SYS_setns),
        NEVER(SYS_mount),
        NEVER(SYS_umount2),
        NEVER(SYS_pivot_root),
        NEVER(SYS_fsopen),
        NEVER(SYS_fspick),
        NEVER(SYS_open_tree),
        NEVER(SYS_open_tree_attr),
        NEVER(SYS_move_mount),
        NEVER(SYS_mount_setattr),
        NEVER(SYS_name_to_handle_at),
        NEVER(SYS_open_by_handle_at),
        NEVER(SYS_fanotify_init),
#ifdef SYS_modify_ldt
        NEVER(SYS_modify_ldt),
#endif
        /* Its flags are in memory, which no filter sees. */
        IF_EQUAL(SYS_clone3, 0, 1),
        UNKNOWN,
        NEVER_WITH(SYS_clone, 0, NAMESPACES),
        NEVER_WITH(SYS_mmap, 3, HUGE_MAP),
        NEVER_WITH(SYS_memfd_create, 1, HUGE_FILE),
        NEVER_WITH(SYS_shmget, 2, HUGE_SHARED),
        NOT_TO(SYS_seccomp, 0, SECCOMP_SET_MODE_FILTER),
        NOT_TO(SYS_prctl, 0, PR_SET_SECCOMP),
        IF_EQUAL(SYS_setsockopt, 0, 9),
        LOAD_LOW(1),
        IF_EQUAL(SOL_SOCKET, 0, 6),
        LOAD_LOW(2),
        IF_EQUAL(SO_ATTACH_FILTER, 3, 0),
        IF_EQUAL(SO_ATTACH_BPF, 2, 0),
        IF_EQUAL(SO_ATTACH_REUSEPORT_CBPF, 1, 0),
        IF_EQUAL(SO_ATTACH_REUSEPORT_EBPF, 0, 1),
        REFUSE,
        ALLOW,
        IF_EQUAL(SYS_socket, 2, 0),
        IF_EQUAL(SYS_socketpair, 1, 0),
        ALLOW,
        LOAD_LOW(0),
        IF_EQUAL(AF_UNIX, 21, 0),
        IF_EQUAL(AF_NETLINK, 17, 0),
        IF_EQUAL(AF_INET, 2, 0),
        IF_EQUAL(AF_INET6, 1, 0),
        REFUSE,
        LOAD_LOW(1),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, SOCKET_TYPE),
        IF_EQUAL(SOCK_STREAM, 3, 0),
        IF_EQUAL(SOCK_DGRAM, 2, 0),
        IF_EQUAL(SOCK_RAW, 1, 0), /* of the kernel, which wants a privilege for it */
        REFUSE,
        LOAD_LOW(2),
        IF_EQUAL(0, 9, 0),
        IF_EQUAL(IPPROTO_TCP, 8, 0),
        IF_EQUAL(IPPROTO_UDP, 7, 0),
        IF_EQUAL(IPPROTO_ICMP, 6, 0),
        IF_EQUAL(IPPROTO_ICMPV6, 5, 0),
        IF_EQUAL(MPTCP, 4, 0),
        REFUSE,
        /* AF_NETLINK: the lists of addresses and routes, which the C library reads. */
        LOAD_LOW(2),
        IF_EQUAL(0, 1, 0),
        REFUSE,
        ALLOW,
    };
    return install(program, sizeof program / sizeof *program);
}

bool install_filter(pid_t init) {
    struct sock_filter program[] = {
        BEGIN(KILL),
        NEVER(SYS_ptrace),
        NEVER(SYS_process_vm_readv),
        NEVER(SYS_process_vm_writev),
        NEVER(SYS_process_madvise),
        NEVER(SYS_process_mrelease),
        NEVER(SYS_kcmp),
        NEVER(SYS_pidfd_open),
        NEVER(SYS_pidfd_send_signal),
        NEVER(SYS_pidfd_getfd),
        /* In a namespace of its own the init gets no signal that goes to all; elsewhere it would. */
        IF_EQUAL(SYS_kill, 0, 6),
        LOAD_LOW(0),
        IF_EQUAL(init, 2, 0),
        IF_EQUAL(init == 1 ? init : -init, 1, 0),
        IF_EQUAL(init == 1 ? init : -1, 0, 1),
        REFUSE,
        ALLOW,
        NOT_TO(SYS_tkill, 0, init),
        NOT_TO(SYS_rt_sigqueueinfo, 0, init),
        NOT_TO_EITHER(SYS_tgkill, init),
        NOT_TO_EITHER(SYS_rt_tgsigqueueinfo, init),
        ONLY_OWN(SYS_sched_setaffinity),
        ONLY_OWN(SYS_sched_setscheduler),
        ONLY_OWN(SYS_sched_setparam),
        ONLY_OWN(SYS_sched_setattr),
        ONLY_OWN_WHO(SYS_setpriority, 2),
        ONLY_OWN_WHO(SYS_ioprio_set, 3),
        /* To read the limits of another process is harmless. */
        IF_EQUAL(SYS_prlimit64, 0, 8),
        LOAD_LOW(0),
        IF_EQUAL(0, 5, 0),
        LOAD_LOW(2),
        IF_EQUAL(0, 0, 2),
        LOAD_HIGH(2),
        IF_EQUAL(0, 1, 0),
        REFUSE,
        ALLOW,
        ALLOW,
    };
    return install(program, sizeof program / sizeof *program);
}
