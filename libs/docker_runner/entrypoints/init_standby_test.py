"""The init of a standby, as a plain process of this host: it starts nothing before it gets the word to start."""

import signal
import time
from pathlib import Path

import pytest

from tests.support.rigs.bot_process import BotProcess, first_line, uptime, write_lease

WORD = "a1b2c3.7"
LEASE_LOST = 75


def standby(directory: Path, **more: float) -> BotProcess:
    """A standby whose code leaves a file when it is loaded."""
    source = "open('loaded', 'w').close()\nprint('up', flush=True)\ndef main(): pass"
    return BotProcess(directory, "python3.11", {"main.py": source}, "main.py", standby=WORD, **more)  # type: ignore[arg-type]


def is_waiting(process_id: int) -> bool:
    """Whether the init is in its wait, in which it handles signals itself."""
    status = Path(f"/proc/{process_id}/status").read_text()
    blocked = int(next(line for line in status.splitlines() if line.startswith("SigBlk")).split()[1], 16)
    return bool(blocked & 1 << (signal.SIGTERM - 1))


def until_waiting(process_id: int) -> None:
    deadline = time.monotonic() + 30
    while not is_waiting(process_id):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_standby_loads_no_code_before_the_word_and_runs_after_it(tmp_path: Path) -> None:
    one = standby(tmp_path)
    process = one.start()
    until_waiting(process.pid)
    time.sleep(0.2)
    assert not (one.code / "loaded").exists()
    assert Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text() == ""

    one.let_go(f"{WORD} 0\n")

    assert first_line(process) == b"up\n"
    assert one.finish(process).exit_code == 0


def test_word_that_was_written_before_the_start_starts_the_bot(tmp_path: Path) -> None:
    one = standby(tmp_path)
    one.let_go(f"{WORD} 0\n")
    assert one.run().lines[0] == "up"


@pytest.mark.parametrize("word", ["", "a1b2c3", "a1b2c3.70 0\n", "a1b2c3.8 0\n", f" {WORD} 0\n", f"{WORD}\n"], ids=repr)
def test_standby_waits_on_after_the_word_of_another_container(tmp_path: Path, word: str) -> None:
    one = standby(tmp_path)
    one.let_go(word)
    process = one.start()
    until_waiting(process.pid)
    time.sleep(0.2)
    assert process.poll() is None
    assert not (one.code / "loaded").exists()

    one.let_go(f"{WORD} 0\n")
    assert one.finish(process).lines[0] == "up"


def test_standby_ends_without_its_bot_when_the_lease_runs_out(tmp_path: Path) -> None:
    one = standby(tmp_path, keepalive_ttl_seconds=5)
    write_lease(one, deadline := uptime() + 3, ttl=5)
    done = one.finish(one.start())
    assert (done.exit_code, done.lines) == (LEASE_LOST, [])
    # Before the lease ends, as a bot is asked to end.
    assert uptime() >= deadline - 0.75
    assert not (one.code / "loaded").exists()


@pytest.mark.parametrize("form", ["", " final"], ids=["expired", "given away"])
def test_word_after_the_lease_was_lost_starts_nothing(tmp_path: Path, form: str) -> None:
    one = standby(tmp_path, keepalive_ttl_seconds=60)
    write_lease(one, uptime() + 60, ttl=60)
    process = one.start()
    until_waiting(process.pid)
    # The lease first: the init reads it after the word.
    write_lease(one, uptime() + 60 if form else 0.0, ttl=60, counter=1, form=form)
    one.let_go(f"{WORD} 0\n")
    done = one.finish(process)
    assert (done.exit_code, done.lines) == (LEASE_LOST, [])
    assert not (one.code / "loaded").exists()


def test_renewed_lease_keeps_a_standby_waiting(tmp_path: Path) -> None:
    one = standby(tmp_path, keepalive_ttl_seconds=5)
    write_lease(one, first_end := uptime() + 5)
    process = one.start()
    until_waiting(process.pid)
    write_lease(one, uptime() + 60, ttl=60, counter=1)
    while uptime() < first_end:
        assert process.poll() is None
        time.sleep(0.05)
    one.let_go(f"{WORD} 0\n")
    assert one.finish(process).lines[0] == "up"


def test_standby_that_is_asked_to_end_ends_at_once_without_its_bot(tmp_path: Path) -> None:
    one = standby(tmp_path)
    process = one.start()
    until_waiting(process.pid)
    process.terminate()
    done = one.finish(process, timeout_seconds=10)
    assert (done.exit_code, done.lines) == (LEASE_LOST, [])
    assert not (one.code / "loaded").exists()
