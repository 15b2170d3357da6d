"""The init as a plain process of this host: its input, what bots report to it, and its filter of system calls."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from libs.core.hostile_json import Parsed, parse
from libs.docker_runner.containers.run_folders import HEAD_BOUNDS
from tests.support.rigs.bot_process import BotProcess, Finished, first_line, init_program, uptime, write_lease


def bot(directory: Path, source: str, **more: Any) -> BotProcess:
    return BotProcess(directory, "python3.11", {"main.py": source}, "main.py", **more)


def finished_after(directory: Path, text: bytes, code: int = 1) -> Finished:
    """How a bot ends that says *text* to the init, and nothing else."""
    return bot(directory, f"import os\ndef main():\n os.write(3, {text!r})\n os._exit({code})").run()


# --- its specification


@pytest.mark.parametrize(
    "lines",
    [
        "",
        "result_bytes=1\n",
        "uid=1\ngid=1\nresult_bytes=1\noutput_bytes_per_second=1\noutput_burst_bytes=-1\n",
        "uid=1\ngid=1\nresult_bytes=1\noutput_bytes_per_second=1\noutput_burst_bytes=1",
        "uid=1\ngid=1\nresult_bytes=1\noutput_bytes_per_second=1\noutput_burst_bytes=1\nkeepalive_ttl_seconds=x\n",
        "uid=4294967295\ngid=1\nresult_bytes=1\noutput_bytes_per_second=1\noutput_burst_bytes=1\n",
        "uid=1\ngid=1\nresult_bytes=99999999999999999999\noutput_bytes_per_second=1\noutput_burst_bytes=1\n",
        "unknown=1\nuid=1\ngid=1\nresult_bytes=1\noutput_bytes_per_second=1\noutput_burst_bytes=1\n",
    ],
)
def test_incomplete_or_wrong_lines_are_reported_and_no_bot_starts(tmp_path: Path, lines: str) -> None:
    one = bot(tmp_path, "print('ran')\ndef main(): pass")
    (one.base / "spec" / "init.conf").write_text(lines)
    done = one.finish(one.start())
    assert (done.exit_code, done.lines) == (1, [])
    assert b"spec/init.conf" in done.stderr


def test_missing_command_is_reported() -> None:
    done = subprocess.run([init_program(), "/nowhere"], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (2, b"usage: the0-init BASE COMMAND [ARGUMENT...]\n")


def test_missing_program_is_reported_by_its_name(tmp_path: Path) -> None:
    one = bot(tmp_path, "")
    done = subprocess.run([init_program(), one.base, "no-such-program"], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (127, b"no-such-program: No such file or directory\n")


# --- what the bot's process reports


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        (b'Ereason="exception"\nmessage="no"\n\n{}', {"reason": "exception", "message": "no"}),
        (b'Emessage="a"\nmessage="b"\n\n{}', {"message": "a"}),
        (b'Eother="a"\nhint=""\n\n{}', {"hint": ""}),
        (b'Emessage="\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00"\n\n{}', {"message": '"\\/\b\f\n\r\té😀'}),
        (b'Emessage="a"b"\ntype="t"\n\n{}', {"type": "t"}),
        (b'Emessage="a\\"\ntype="t"\n\n{}', {"type": "t"}),
        (b'Emessage="\\x41"\ntype="t"\n\n{}', {"type": "t"}),
        (b'Emessage="\\u12g4"\ntype="t"\n\n{}', {"type": "t"}),
        (b'Emessage="\\u12"\ntype="t"\n\n{}', {"type": "t"}),
        (b'Emessage="\xc3\xa9"\ntype="t"\n\n{}', {"type": "t"}),
        (b'Emessage="\t"\ntype="t"\n\n{}', {"type": "t"}),
        (b'Emessage="\x00"\ntype="t"\n\n{}', {"type": "t"}),
        (b'Emessage="\ntype="t"\n\n{}', {"type": "t"}),
        (b'Emessage=\ntype="t"\n\n{}', {"type": "t"}),
        (b'Emessage\ntype="t"\n\n{}', {"type": "t"}),
        (b'Emessage=7\ntype="t"\n\n{}', {"type": "t"}),
        (b"E\n{}", {}),
        (b"E" + b"=\n" * 3000 + b"\n{}", {}),
    ],
)
def test_notes_that_are_strings_of_json_are_passed_on_and_others_are_not(
    tmp_path: Path, text: bytes, failure: dict[str, str]
) -> None:
    done = finished_after(tmp_path, text)
    assert (done.exit_code, done.outcome["kind"], done.payload) == (1, "error", b"{}")
    assert done.outcome.get("failure", {}) == failure


@pytest.mark.parametrize("text", [b"Exx", b'Emessage="a"\n', b"E" + b"x" * 9000 + b"\n\n{}", b"x", b"H1", b"H1\n", b""])
def test_a_note_without_an_end_is_none(tmp_path: Path, text: bytes) -> None:
    done = finished_after(tmp_path, text)
    assert (done.exit_code, done.outcome["kind"], done.payload, done.lines) == (1, "none", b"", [])


@pytest.mark.parametrize("sign", ["a", "\\u00e9", "\\ud83d\\ude00", "\\n", "a\\ud83d\\ude00"])
def test_a_long_note_is_cut_between_two_signs(tmp_path: Path, sign: str) -> None:
    done = finished_after(
        tmp_path, f'Etype="{sign * 60}"\nmessage="{sign * 330}"\nhint="{sign * 180}"\n\n{{}}'.encode()
    )
    head, _, _ = done_head(tmp_path)
    failure = done.outcome["failure"]
    assert isinstance(parse(head, HEAD_BOUNDS), Parsed)
    for name, most in (("type", 250), ("message", 1700), ("hint", 1000)):
        assert 0 < len(json.dumps(failure[name])) <= most
        assert (json.loads(f'"{sign}"') * 400).startswith(failure[name])
        failure[name].encode()
    assert len(json.dumps(failure["message"])) > 1700 - 2 * len(sign) or len(failure["message"]) == 330 * len(
        json.loads(f'"{sign}"')
    )


def done_head(directory: Path) -> tuple[bytes, bytes, bytes]:
    return (directory / "the0" / "private" / "outcome").read_bytes().partition(b"\n")


@pytest.mark.parametrize(
    ("text", "code"),
    [(b"Hx\nR1", 0), (b"H99999999999999999999\nR1", 0), (b"H5\nH6\nR1", 0), (b"R1", 0)],
)
def test_a_result_may_follow_the_size_of_the_heap(tmp_path: Path, text: bytes, code: int) -> None:
    done = finished_after(tmp_path, text, code)
    assert (done.exit_code, done.payload, done.lines) == (0, b"1", ["1"])


@pytest.mark.parametrize(("text", "code"), [(b"R1", 3), (b'Emessage="a"\n\n{}', 0)])
def test_a_result_that_the_exit_code_contradicts_is_none(tmp_path: Path, text: bytes, code: int) -> None:
    done = finished_after(tmp_path, text, code)
    assert (done.exit_code, done.outcome["kind"], done.payload, done.lines) == (code, "none", b"", [])


def test_a_result_of_exactly_the_limit_is_one(tmp_path: Path) -> None:
    source = "def main(): return 'x' * 998"
    assert bot(tmp_path / "1", source, result_bytes=1000).run().exit_code == 0
    assert bot(tmp_path / "2", source, result_bytes=999).run().exit_code == 1


def test_the_code_of_a_lost_lease_is_not_the_bots_to_give_where_no_outcome_can_say_so(tmp_path: Path) -> None:
    one = bot(tmp_path, "import os\ndef main(): os._exit(75)")
    one.outcome.unlink()
    one.outcome.mkdir()
    process = one.start()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"the outcome cannot be written" in errors


def test_configured_heap_that_is_not_full_is_not_the_reason_of_an_abort(tmp_path: Path) -> None:
    done = bot(tmp_path, "import os\ndef main():\n os.write(3, b'H4611686018427387904\\n')\n os.abort()").run()
    assert (done.exit_code, done.outcome.get("failure")) == (134, None)


# --- the lease


def test_a_start_that_was_held_back_does_not_revive_a_lease_of_another_kernel(tmp_path: Path) -> None:
    one = bot(tmp_path, "print('ran')\ndef main(): pass", keepalive_ttl_seconds=60.0)
    write_lease(one, 1e9, ttl=60.0, boot_id="another-kernel")
    written = time.time() - 61
    os.utime(one.base / "keepalive" / "lease", (written, written))
    done = one.finish(one.start())
    assert (done.exit_code, done.lines) == (75, [])


def test_a_file_with_an_earlier_deadline_takes_nothing_of_what_was_proven(tmp_path: Path) -> None:
    source = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\ndef main():\n print('up')\n time.sleep(60)"
    one = bot(tmp_path, source, keepalive_ttl_seconds=60.0)
    # Read before the bot starts, so that no moment of reading counts.
    write_lease(one, proven := uptime() + 8, ttl=60.0)
    process = one.start()
    first_line(process)
    write_lease(one, uptime() + 1, ttl=60.0, counter=1)
    done = one.finish(process)
    assert (done.exit_code, done.outcome["reason"]) == (75, "lease-lost")
    assert uptime() > proven - 0.05


def until_read(process: "subprocess.Popen[bytes]") -> None:
    """Return when the init has read its keepalive once more. It reads nothing else while its bot is silent."""

    def reads() -> int:
        counters = dict(line.split(": ") for line in Path(f"/proc/{process.pid}/io").read_text().splitlines())
        return int(counters["syscr"])

    begun = reads()
    while reads() < begun + 6:
        time.sleep(0.05)


DEAF = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\ndef main():\n print('up')\n time.sleep(600)"


@pytest.mark.parametrize("boot_id", [None, "another-kernel"])
def test_nothing_extends_a_last_deadline(tmp_path: Path, boot_id: str | None) -> None:
    one = bot(tmp_path, DEAF, keepalive_ttl_seconds=600.0)
    write_lease(one, uptime() + 600, ttl=600.0, boot_id=boot_id)
    process = one.start()
    first_line(process)
    # Shorter than what was proven, and read before the next owner writes its own deadline.
    write_lease(one, last := uptime() + 3, ttl=3.0, boot_id=boot_id, counter=1, form=" final")
    until_read(process)
    write_lease(one, uptime() + 600, ttl=600.0, boot_id=boot_id, counter=2)
    done = one.finish(process)
    assert (done.exit_code, done.outcome["reason"]) == (75, "lease-lost")
    assert uptime() > last - 0.05


def test_bot_with_a_last_deadline_ends_at_once_when_its_worker_gives_it_up(tmp_path: Path) -> None:
    one = bot(tmp_path, DEAF, keepalive_ttl_seconds=600.0)
    write_lease(one, uptime() + 600, ttl=600.0, form=" other")
    write_lease(one, uptime() + 600, ttl=600.0)
    process = one.start()
    first_line(process)
    write_lease(one, uptime() + 600, ttl=600.0, counter=1, form=" final")
    until_read(process)
    write_lease(one, 0.0, ttl=0.0, counter=2)
    done = one.finish(process)
    assert (done.exit_code, done.outcome["reason"]) == (75, "lease-lost")


def test_container_that_starts_under_a_last_deadline_never_starts_its_bot(tmp_path: Path) -> None:
    one = bot(tmp_path, "print('ran')\ndef main(): pass", keepalive_ttl_seconds=60.0)
    write_lease(one, uptime() + 60, ttl=60.0, form=" final")
    done = one.finish(one.start())
    assert (done.exit_code, done.lines) == (75, [])


def test_bot_that_was_asked_to_end_has_all_the_time_until_its_last_deadline(tmp_path: Path) -> None:
    source = (
        "import os, signal, time\n"
        "signal.signal(15, lambda *_: os.write(1, b'%.3f\\n' % time.clock_gettime(time.CLOCK_BOOTTIME)))\n"
        "def main():\n print('up', flush=True)\n while True: time.sleep(0.1)"
    )
    one = bot(tmp_path, source, keepalive_ttl_seconds=600.0)
    write_lease(one, uptime() + 600, ttl=600.0)
    process = one.start()
    first_line(process)
    write_lease(one, last := uptime() + 4, ttl=60.0, counter=1, form=" final")
    process.terminate()
    done = one.finish(process)
    # Not again before the deadline, at which it is killed.
    first, *others = map(float, done.lines)
    assert first < last
    assert [at for at in others if at < last - 0.25] == []
    assert uptime() > last - 0.05


# --- the filter, for bots of the same user; what it refuses is tried in containers, in sandbox_init_docker_test.py


ALLOWED = """
import os, resource, signal, subprocess, threading
def main():
    child = subprocess.Popen(["sleep", "60"])
    child.send_signal(signal.SIGTERM)
    thread = threading.Thread(target=print)
    thread.start()
    thread.join()
    os.sched_setaffinity(0, os.sched_getaffinity(os.getppid()))
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    os.setpriority(os.PRIO_PGRP, 0, 19)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    os.kill(os.getpid(), 0)
    os.kill(0, 0)
    return [child.wait(), len(resource.prlimit(os.getppid(), resource.RLIMIT_CORE))]
"""


def test_a_bot_of_the_same_user_still_rules_its_own_processes(tmp_path: Path) -> None:
    done = bot(tmp_path, ALLOWED).run()
    assert (done.exit_code, done.last) == (0, [-15, 2]), done.stderr


def test_no_new_privileges_and_no_capabilities_are_left_to_the_bot(tmp_path: Path) -> None:
    source = (
        "def main(): return dict(x.split(':\\t') for x in open('/proc/self/status').read().splitlines() if ':\\t' in x)"
    )
    status = bot(tmp_path, source).run().last
    assert [int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")] == [0, 0, 0, 0]
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_the_bot_is_nicer_than_the_init_and_first_to_go_when_memory_is_short(tmp_path: Path) -> None:
    source = "import os\ndef main(): return [os.nice(0), int(open('/proc/self/oom_score_adj').read())]"
    assert bot(tmp_path, source).run().last == [min(os.nice(0) + 5, 19), 1000]
