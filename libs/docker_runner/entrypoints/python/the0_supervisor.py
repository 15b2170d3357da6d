"""Runs inside the container, as the init's only child: keeps the bot's process, its output and its lease.

It imports only what the interpreter has loaded anyway, since each import delays the bot's first line. ``_signal`` and
``_json`` are the C halves of ``signal`` and ``json``. The bot runs in a forked child, which saves a second start of the
interpreter.

Measured, start to end of ``python3 -I -S -B`` in a container of Python 3.11, median of 60, and resident memory:

=================================  ===============  ===============
imports                            with bytecode    without
=================================  ===============  ===============
``_signal``, ``_json``             7 ms, 7.8 MB     25 ms, 8.4 MB
``signal``, ``json``               13 ms, 9.1 MB    117 ms, 11.9 MB
=================================  ===============  ===============

Images without bytecode are common: the official ones of Python contain none.

Exit code: the bot's own, 128+n when signal n ended it, 75 when its lease ran out.
"""

import _json
import _signal  # type: ignore[import-not-found]
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # the module takes longer to load than all others together
    from typing import Any

LEASE_LOST = 75
TERM_BEFORE_DEADLINE_SECONDS = 0.75
MAX_GRACE_SECONDS = 30.0
POLL_SECONDS = 0.2
DRAIN_SECONDS = 5.0
FIRST_USAGE_SECONDS = 1.0
USAGE_SECONDS = 10.0
HEAD_BYTES = 512
# The worker reads 4 KiB of a note.
NOTE_BYTES = {"reason": 50, "type": 250, "message": 1700, "hint": 1000}
CHUNK_BYTES = 65536
CLOCK = time.CLOCK_BOOTTIME


class JsonContext:
    """What the C scanner asks its decoder for."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


def parse_json(text: str) -> "Any":
    """The value of *text*, which is JSON without space around it, at the speed of ``json`` and without its import."""
    try:
        value, end = _json.make_scanner(JsonContext)(text, 0)  # type: ignore[arg-type]
        if end == len(text):
            return value
    except (StopIteration, ValueError, TypeError, AttributeError):
        pass
    import json

    return json.loads(text)


def read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


class Lease:
    """The dead-man's switch: how long the worker that started us has proven to own this bot.

    The file says ``<boot id> <deadline> <seconds left> <counter>``. Under the same kernel the deadline counts, on the
    clock that /proc/uptime shows; otherwise a change counts, for the seconds left from when we saw it.
    """

    def __init__(self, path: str, ttl: float) -> None:
        self._path = path
        self._ttl = ttl
        self._seen = ""
        self.deadline = time.clock_gettime(CLOCK) + ttl
        try:
            self._boot_id = read("/proc/sys/kernel/random/boot_id").strip()
        except OSError:
            self._boot_id = ""
        try:
            content, written = read(path), os.stat(path).st_mtime
        except OSError:
            return
        # A start that the engine held back must not revive a lease that ran out meanwhile.
        age = max(0.0, time.time() - written)
        self.deadline -= min(ttl, age)
        self._take(content)

    def look(self) -> None:
        try:
            content = read(self._path)
        except OSError:
            return
        if content != self._seen:
            self._take(content)

    def _take(self, content: str) -> None:
        now = time.clock_gettime(CLOCK)
        try:
            boot_id, deadline_text, ttl_text, _ = content.split()
            deadline, ttl = float(deadline_text), float(ttl_text)
        except ValueError:
            return
        if deadline == 0:
            # The worker gave the segment up.
            self.deadline = 0.0
        elif boot_id == self._boot_id:
            # The first reading replaces the guess from the file's age; later ones never shorten what was proven.
            self.deadline = max(self.deadline if self._seen else 0.0, min(deadline, now + ttl))
        elif self._seen:
            self.deadline = now + ttl
        self._seen = content


class Stream:
    """One output of the bot on its way to the engine."""

    def __init__(self, source: int, target: int) -> None:
        self.source, self.target = source, target
        # A view, so that what is left of a large result is not copied with each piece that is written.
        self.pending = memoryview(b"")
        self.open = True
        self.last = b"\n"

    def fill(self, most: int) -> int:
        try:
            data = os.read(self.source, min(most, CHUNK_BYTES))
        except BlockingIOError:
            return 0
        if not data:
            self.open = False
            os.close(self.source)
        else:
            self.pending, self.last = memoryview(data), data[-1:]
        return len(data)

    def empty(self) -> None:
        try:
            self.pending = self.pending[os.write(self.target, self.pending) :]
        except BlockingIOError:
            pass
        except OSError:
            # Nobody reads any more; the bot is not to die of that.
            self.pending = memoryview(b"")


class Supervisor:
    """The bot's process and everything that it needs from outside of itself."""

    def __init__(self, base: str, spec: "dict[str, Any]", lease: Lease | None) -> None:
        self._base, self._spec, self._lease = base, spec, lease
        self._pid = 0
        self._status: int | None = None
        self._reason = "exit"
        self._kill_at: float | None = None
        self._result = bytearray()
        self._rate = max(1, spec["output_bytes_per_second"])
        self._burst = max(CHUNK_BYTES, spec["output_burst_bytes"])
        self._tokens = float(self._burst)
        self._refilled = time.monotonic()
        self._usage_at = self._refilled + FIRST_USAGE_SECONDS

    def run(self) -> int:
        self._wake, wake_writer = os.pipe()
        for descriptor in (self._wake, wake_writer, 1, 2):
            # The engine may stop reading; the switch must fire all the same.
            os.set_blocking(descriptor, False)
        _signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        handled = {_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP, _signal.SIGCHLD}
        for number in handled:
            _signal.signal(number, lambda *_: None)
        output, errors, result = os.pipe(), os.pipe(), os.pipe()
        # Until the child has its own handlers, what arrives waits.
        _signal.pthread_sigmask(_signal.SIG_BLOCK, handled)
        self._pid = os.fork()
        if self._pid == 0:
            _signal.set_wakeup_fd(-1)
            os.dup2(output[1], 1)
            os.dup2(errors[1], 2)
            for descriptor in (self._wake, wake_writer, *output, *errors, result[0]):
                # What the bot writes to any descriptor that it finds must not reach us as a signal.
                os.close(descriptor)
            run_bot(self._base, self._spec, result[1], handled)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, handled)
        for _, writer in (output, errors, result):
            os.close(writer)
        for reader in (output[0], errors[0], result[0]):
            os.set_blocking(reader, False)
        self._streams = [Stream(output[0], 1), Stream(errors[0], 2)]
        self._result_reader: int | None = result[0]
        while self._status is None:
            self._step()
        self._kill_rest()
        self._drain()
        return self._finish()

    # --- while it runs

    def _step(self) -> None:
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._refilled) * self._rate)
        self._refilled = now
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        if self._result_reader is not None:
            poller.register(self._result_reader, select.POLLIN)
        slowed = self._tokens < 1
        for stream in self._streams:
            if stream.pending:
                poller.register(stream.target, select.POLLOUT)
            elif stream.open and not slowed:
                poller.register(stream.source, select.POLLIN)
        wait = max(0.0, self._usage_at - now)
        if slowed:
            wait = min(wait, 0.05)
        elif self._lease is not None:
            wait = min(wait, POLL_SECONDS)
        # Rounded up: a wait that ends too early would only begin again.
        ready = {descriptor for descriptor, _ in poller.poll(int(wait * 1000) + 1)}
        self._move(ready, int(self._tokens))
        if now >= self._usage_at:
            self._usage_at = now + USAGE_SECONDS
            self._tell("running", "none")
        if self._wake in ready:
            self._signals()
        if self._lease is not None:
            self._watch(self._lease)

    def _move(self, ready: set[int], most: int) -> None:
        for stream in self._streams:
            if not stream.pending and stream.open and stream.source in ready and most > 0:
                taken = stream.fill(most)
                most -= taken
                self._tokens -= taken
            if stream.pending:
                stream.empty()
        if self._result_reader in ready:
            self._read_result()

    def _read_result(self) -> None:
        assert self._result_reader is not None
        try:
            data = os.read(self._result_reader, CHUNK_BYTES)
        except BlockingIOError:
            return
        if not data:
            os.close(self._result_reader)
            self._result_reader = None
        elif len(self._result) <= self._spec["result_bytes"] + 1:
            self._result += data

    def _signals(self) -> None:
        for number in os.read(self._wake, 512):
            if number == _signal.SIGCHLD:
                continue
            self._reason = "terminated" if self._reason == "exit" else self._reason
            self._send(number)
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid:
            self._status = status

    def _watch(self, lease: Lease) -> None:
        lease.look()
        now = time.clock_gettime(CLOCK)
        if self._kill_at is None and now >= lease.deadline - TERM_BEFORE_DEADLINE_SECONDS:
            self._reason = "lease-lost"
            self._kill_at = now + MAX_GRACE_SECONDS
            self._send(_signal.SIGTERM)
        if self._kill_at is not None and self._status is None and now >= min(lease.deadline, self._kill_at):
            # All at once: what is left of the bot's CPU quota may not suffice to see one die before the next.
            self._kill_rest()
            _, self._status = os.waitpid(self._pid, 0)

    def _send(self, number: int) -> None:
        if self._status is None:
            os.kill(self._pid, number)

    # --- afterwards

    def _kill_rest(self) -> None:
        """Whatever the bot left running ends with it."""
        try:
            if self._spec["contained"] and os.getppid() == 1:
                os.kill(-1, _signal.SIGKILL)
            else:
                os.killpg(self._pid, _signal.SIGKILL)
        except ProcessLookupError:
            pass

    def _drain(self) -> None:
        """Bring out what the bot had written when it ended; for a while, since the engine may be away."""
        limit = 1.0 if self._reason == "lease-lost" else DRAIN_SECONDS
        until = time.monotonic() + limit
        while time.monotonic() < until:
            poller = select.poll()
            for stream in self._streams:
                if stream.pending:
                    poller.register(stream.target, select.POLLOUT)
                elif stream.open:
                    poller.register(stream.source, select.POLLIN)
            if self._result_reader is not None:
                poller.register(self._result_reader, select.POLLIN)
            elif not any(stream.pending or stream.open for stream in self._streams):
                return
            self._move({descriptor for descriptor, _ in poller.poll(100)}, CHUNK_BYTES)

    def _finish(self) -> int:
        status = self._status or 0
        code = os.waitstatus_to_exitcode(status)
        code = 128 - code if code < 0 else code
        kind, payload, note = bytes(self._result[:1]), bytes(memoryview(self._result)[1:]), b""
        limit = self._spec["result_bytes"]
        if kind == b"E":
            note, _, payload = payload.partition(b"\n")
        elif kind == b"R" and code == 0 and len(payload) > limit:
            kind, code = b"E", 1
            message = b'"message": "main returned more than %d bytes of JSON"}' % limit
            note, payload = b'{"reason": "result-too-large", ' + message, b'{"status": "error", ' + message
        if (kind == b"R" and code != 0) or (kind == b"E" and code == 0) or self._reason == "lease-lost":
            kind = b""
        if kind:
            line = payload + b"\n"
            if self._streams[0].last != b"\n":
                line = b"\n" + line
            self._streams[0].pending = memoryview(bytes(self._streams[0].pending) + line)
            self._drain()
        if self._reason == "lease-lost":
            code = LEASE_LOST
        failure = bounded(note) if kind == b"E" else ""
        self._tell(self._reason, {b"R": "result", b"E": "error"}.get(kind, "none"), payload if kind else b"", failure)
        return code

    def _tell(self, reason: str, kind: str, payload: bytes | None = None, failure: str = "") -> None:
        """Leave for the worker what the kernel counted, and at the end (with *payload*) what the bot returned.

        *failure* is the JSON of what it did wrong.
        """
        import the0_usage  # type: ignore[import-not-found]  # pants: no-infer-dep

        path = self._base + "/outcome"
        usage = ", ".join(f'"{name}": {value}' for name, value in the0_usage.measured().items())
        failed = f'"failure": {failure}, ' if failure else ""
        head = f'{{"reason": "{reason}", "kind": "{kind}", {failed}{usage}}}'.ljust(HEAD_BYTES - 1) + "\n"
        try:
            # The file is made by the worker, if it wants to know.
            file = os.open(path, os.O_WRONLY | (0 if payload is None else os.O_TRUNC))
        except FileNotFoundError:
            return
        try:
            for part in (head.encode(), payload or b""):
                while part:
                    part = part[os.write(file, part) :]
        except OSError as error:
            os.write(2, f"the outcome cannot be written: {error}\n".encode())
        finally:
            os.close(file)


def bounded(note: bytes) -> str:
    """The JSON of the bot's note about its error, so short that the worker reads it; empty when it is no note."""
    try:
        values = parse_json(note.decode())
        texts = {name: values[name] for name in NOTE_BYTES if isinstance(values.get(name), str)}
    except (ValueError, AttributeError, RecursionError):
        return ""
    fields = []
    for name, text in texts.items():
        while len(encoded := _json.encode_basestring_ascii(text)) > NOTE_BYTES[name]:
            text = text[: len(text) * NOTE_BYTES[name] // len(encoded)]
        fields.append(f'"{name}": {encoded}')
    return "{" + ", ".join(fields) + "}"


def run_bot(base: str, spec: "dict[str, Any]", result_writer: int, blocked: set[int]) -> None:
    """The child's whole life; never returns."""
    try:
        os.setsid()
        # Within the container the supervisor comes first, for the CPU as for the memory.
        os.nice(5)
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")
    except OSError:
        pass
    try:
        import the0_bot_process as bot_process  # type: ignore[import-not-found]  # pants: no-infer-dep

        del sys.path[0]  # ours; see start.py
        config_text = read(base + "/spec/config.json")
        bot_process.run(spec, config_text, parse_json(config_text), result_writer, blocked)
    except BaseException:  # noqa: BLE001 - the child must not return into the supervisor's code
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def main() -> int:
    base = sys.argv[1] if len(sys.argv) > 1 else "/run/the0"
    spec = parse_json(read(base + "/spec/spec.json"))
    lease = None
    if spec["keepalive_ttl_seconds"] is not None:
        lease = Lease(base + "/keepalive/lease", spec["keepalive_ttl_seconds"])
        if time.clock_gettime(CLOCK) >= lease.deadline - TERM_BEFORE_DEADLINE_SECONDS:
            os.write(2, b"the worker's lease ran out before this container started; not starting\n")
            return LEASE_LOST
    return Supervisor(base, spec, lease).run()
