"""For tests: bots that try to stop, starve, read or change the init, so as to outlive their lease.

Run them in containers only, never as processes of this host: with the rights of the tests, the attacks succeed.
"""

PRELUDE = r"""
import ctypes, fcntl, os, resource, signal, struct, time
libc = ctypes.CDLL(None, use_errno=True)
INIT = os.getppid()
if INIT != 1 or os.getuid() == 0:
    raise SystemExit("this is no bot in a container")

def tried(action):
    try:
        return "done: " + repr(action())
    except BaseException as error:
        return type(error).__name__ + ": " + str(error)

def call(number, *arguments):
    ctypes.set_errno(0)
    if libc.syscall(number, *[ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]) == -1:
        raise OSError(ctypes.get_errno(), "refused")

def survive(*_):
    for number in range(1, 65):
        tried(lambda: signal.signal(number, signal.SIG_IGN))
    while True:
        time.sleep(1)

def child(action):
    pid = os.fork()
    if pid == 0:
        try:
            action()
        finally:
            os._exit(0)
    return pid
"""

# What the bot tries: each is an expression that raises when it is refused. System calls by their numbers on x86-64.
REFUSED = {
    **{
        f"kill {number}": f"os.kill(INIT, {number})"
        for number in (0, 1, 2, 9, 11, 15, 17, 18, 19, 20, 21, 22, 23, 29, 34, 64)
    },
    "tkill": "call(200, INIT, 19)",
    "tgkill": "call(234, INIT, INIT, 19)",
    "rt_sigqueueinfo": "call(129, INIT, 19, ctypes.create_string_buffer(struct.pack('iii', 19, 0, -1), 128))",
    "rt_tgsigqueueinfo": "call(297, INIT, INIT, 19, ctypes.create_string_buffer(struct.pack('iii', 19, 0, -1), 128))",
    "attach": "call(101, 16, INIT, 0, 0)",
    "seize": "call(101, 0x4206, INIT, 0, 0)",
    "process_vm_readv": "call(310, INIT, VECTOR, 1, VECTOR, 1, 0)",
    "process_vm_writev": "call(311, INIT, VECTOR, 1, VECTOR, 1, 0)",
    "pidfd_send_signal": "call(424, os.pidfd_open(INIT), 19, None, 0)",
    "pidfd_getfd": "call(438, os.pidfd_open(INIT), 1, 0)",
    "kcmp": "call(312, INIT, os.getpid(), 0, 0, 0)",
    "mem": "open(f'/proc/{INIT}/mem', 'r+b')",
    "fd": "os.listdir(f'/proc/{INIT}/fd')",
    "fd 1": "open(f'/proc/{INIT}/fd/1', 'wb')",
    "root": "os.listdir(f'/proc/{INIT}/root')",
    "environ": "open(f'/proc/{INIT}/environ').read()",
    "maps": "open(f'/proc/{INIT}/maps').read()",
    "oom_score_adj": "open(f'/proc/{INIT}/oom_score_adj', 'w').write('1000')",
    "clear_refs": "open(f'/proc/{INIT}/clear_refs', 'w').write('1')",
    "cpu time": "resource.prlimit(INIT, resource.RLIMIT_CPU, (0, 0))",
    "open files": "resource.prlimit(INIT, resource.RLIMIT_NOFILE, (0, 0))",
    "affinity": "os.sched_setaffinity(INIT, {0})",
    "idle": "os.sched_setscheduler(INIT, os.SCHED_IDLE, os.sched_param(0))",
    "param": "os.sched_setparam(INIT, os.sched_param(0))",
    "sched_setattr": "call(314, INIT, ctypes.create_string_buffer(struct.pack('IIQiI24x', 48, 5, 0, 0, 0)), 0)",
    "nice": "os.setpriority(os.PRIO_PROCESS, INIT, 19)",
    "ioprio": "call(251, 1, INIT, 3 << 13)",
    "clock": "time.clock_settime(time.CLOCK_REALTIME, 0)",
}

TRY = PRELUDE + """
PLACE = ctypes.create_string_buffer(64)
VECTOR = ctypes.create_string_buffer(struct.pack("PL", ctypes.addressof(PLACE), 8))
def main(id, config):
    return {name: tried(lambda: eval(text)) for name, text in config.items()}
"""

# Bots that print `up` and outlive everything but SIGKILL.
OUTLIVE = {
    "signals": """
    print("up")
    for number in range(1, 65):
        tried(lambda: os.kill(INIT, number))
        tried(lambda: os.kill(-1, number))
    survive()
""",
    "all-attacks": """
    print("up")
    for text in config.values():
        tried(lambda: eval(text))
    survive()
""",
    "stopped": """
    print("up")
    os.kill(os.getpid(), signal.SIGSTOP)
    survive()
""",
    "forks-and-sessions": """
    def escape(depth):
        os.setsid()
        if depth:
            child(lambda: escape(depth - 1))
        survive()
    child(lambda: escape(3))
    print("up")
    survive()
""",
    "pids": """
    print("up")
    while True:
        tried(lambda: child(survive))
""",
    "zombies": """
    print("up")
    def orphan():
        child(lambda: None)
    while True:
        tried(lambda: child(orphan))
""",
    "memory": """
    print("up")
    def hog():
        kept = []
        while True:
            kept.append(b"x" * 1000000)
    while True:
        # One at a time, so that the kernel ends the child, the largest, and not the bot.
        tried(lambda: os.waitpid(child(hog), 0))
""",
    "cpu": """
    print("up")
    def spin():
        while True:
            pass
    for _ in range(40):
        tried(lambda: child(spin))
    survive()
""",
    "closed-output": """
    print("up")
    os.closerange(0, 100)
    survive()
""",
    "flood": """
    print("up")
    while True:
        tried(lambda: os.write(1, b"x" * 65536))
        tried(lambda: os.write(2, b"x" * 65536))
""",
    "result-flood": """
    print("up")
    while True:
        tried(lambda: os.write(3, b"R" * 65536))
""",
    "cgroup": """
    print("up")
    for folder, _, files in os.walk("/sys/fs/cgroup"):
        for file in files:
            tried(lambda: open(os.path.join(folder, file), "w").write("0"))
    survive()
""",
}


def outliving(name: str) -> str:
    """The source of one of :data:`OUTLIVE`; its config is :data:`REFUSED`."""
    vector = TRY[len(PRELUDE) : TRY.index("def main")]
    return f"{PRELUDE}{vector}def main(id, config):{OUTLIVE[name]}"
