"""Python bots under the init, as plain processes of this host."""

import json
import os
import resource
import signal
import time
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest

from libs.core.hostile_json import Parsed, parse
from libs.docker_runner.containers.failure import failure_from
from libs.docker_runner.containers.run_folders import HEAD_BOUNDS
from tests.support.rigs.bot_process import (
    BotProcess,
    Finished,
    first_line,
    is_gone,
    outlive_lease,
    uptime,
    write_lease,
)


def run(directory: Path, source: str, **more: Any) -> Finished:
    return BotProcess(directory, "python3.11", {"main.py": source}, "main.py", **more).run()


def test_what_main_returns_is_the_last_line_and_the_result(tmp_path: Path) -> None:
    done = run(tmp_path, "def main(id, config):\n print('hi', id)\n return {'a': config['x'] + 1}", config={"x": 1})
    assert (done.exit_code, done.lines) == (0, ["hi b1", '{"a": 2}'])
    assert json.loads(done.payload) == {"a": 2}
    assert done.outcome["kind"] == "result"


def test_a_raised_error_gives_a_traceback_a_last_line_and_exit_code_one(tmp_path: Path) -> None:
    done = run(tmp_path, "def main(id, config):\n    raise ValueError('no \"money\"')")
    assert done.exit_code == 1
    assert done.last == {"status": "error", "message": 'no "money"'}
    assert b"main.py" in done.stderr
    assert b"ValueError" in done.stderr
    assert b"the0_bot_process" not in done.stderr


def test_an_error_without_a_message_is_named_by_its_type(tmp_path: Path) -> None:
    done = run(tmp_path, "def main(id, config):\n    raise KeyError")
    assert done.last["message"] == "KeyError"
    assert done.outcome["failure"] == {"reason": "exception", "type": "KeyError", "message": ""}


def test_an_error_is_noted_with_its_type_and_message_and_never_by_its_text(tmp_path: Path) -> None:
    message = "order size is larger than the limit"
    done = run(tmp_path, f"class Refused(ValueError): pass\ndef main(id, config): raise Refused({message!r})")
    assert done.outcome["failure"] == {"reason": "exception", "type": "main.Refused", "message": message}
    assert (done.outcome["kind"], done.last["message"]) == ("error", message)


@pytest.mark.parametrize("text", ["x" * 3000, "\U0001f600", '\0\n"', "\ud800"])
def test_the_note_of_an_error_is_short_enough_to_be_read(tmp_path: Path, text: str) -> None:
    done = run(tmp_path, f"def main(id, config): raise type('E' * 9999, (Exception,), {{}})({text!a} * 1000)")
    head, _, _ = (tmp_path / "the0" / "private" / "outcome").read_bytes().partition(b"\n")
    parsed = parse(head, HEAD_BOUNDS)
    assert isinstance(parsed, Parsed)
    assert failure_from(parsed.value["failure"]) is not None  # type: ignore[index]
    assert done.outcome["failure"]["message"].startswith(text[:100])
    assert done.outcome["failure"]["type"].startswith("main.E")


@pytest.mark.parametrize(
    "note", ["", "E", "E\n", "Exyz\n{}", "E[1]\n{}", 'E{"reason": 1}\n{}', "E" + "[" * 9999 + "\n{}"]
)
def test_a_note_that_the_bot_makes_up_leaves_a_head_that_can_be_read(tmp_path: Path, note: str) -> None:
    source = f"""
import os
def main(id, config):
    for descriptor in range(3, 20):
        try:
            os.write(descriptor, {note!r}.encode())
        except OSError:
            pass
    os._exit(1)
"""
    done = run(tmp_path, source)
    assert (done.exit_code, done.outcome["reason"]) == (1, "exit")
    assert done.outcome.get("failure", {}) == {}


def test_an_error_that_cannot_be_shown_is_noted_by_its_type(tmp_path: Path) -> None:
    source = "class E(Exception):\n def __str__(self): raise ValueError\ndef main(id, config): raise E"
    done = run(tmp_path, source)
    assert done.exit_code == 1
    assert done.outcome["failure"] == {"reason": "exception", "type": "main.E", "message": ""}


def test_a_main_that_returns_nothing_gives_null(tmp_path: Path) -> None:
    done = run(tmp_path, "def main(id, config): pass")
    assert (done.exit_code, done.lines) == (0, ["null"])


def test_main_may_be_asynchronous(tmp_path: Path) -> None:
    done = run(tmp_path, "import asyncio\nasync def main(id, config):\n await asyncio.sleep(0)\n return [id]")
    assert (done.exit_code, done.last) == (0, ["b1"])


def test_nan_and_infinity_become_null(tmp_path: Path) -> None:
    done = run(tmp_path, "def main(id, config): return {'s': float('nan'), 'l': [float('-inf'), 1.5]}")
    assert (done.exit_code, done.last) == (0, {"s": None, "l": [None, 1.5]})


def test_dates_and_arrays_are_returned_as_json(tmp_path: Path) -> None:
    source = (
        "import datetime, array\ndef main(id, config): return [datetime.date(2024, 1, 2), array.array('i', [1, 2])]"
    )
    assert run(tmp_path, source).last == ["2024-01-02", [1, 2]]


def test_result_that_is_not_json_is_reported_as_such(tmp_path: Path) -> None:
    done = run(tmp_path, "def main(id, config): return {'x': {1, 2}}")
    assert done.exit_code == 1
    assert "not JSON" in done.last["message"]
    assert "set" in done.last["message"]
    assert done.outcome["failure"]["reason"] == "result-not-json"


def test_result_over_the_limit_is_reported_as_such(tmp_path: Path) -> None:
    done = run(tmp_path, "def main(id, config): return 'x' * 5000", result_bytes=1000)
    assert done.exit_code == 1
    assert "more than 1000 bytes" in done.last["message"]
    assert done.outcome["kind"] == "error"
    assert done.outcome["failure"]["reason"] == "result-too-large"


def test_result_of_sixteen_times_the_size_takes_little_more_than_sixteen_times_as_long(tmp_path: Path) -> None:
    def seconds(mebibytes: int) -> float:
        directory = tmp_path / str(mebibytes)
        directory.mkdir()
        source = f"def main(id, config):\n    return ['x' * 1023] * {mebibytes * 1024}"
        begun = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = run(directory, source, result_bytes=64 << 20)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert (done.exit_code, len(done.payload) > mebibytes << 20) == (0, True)
        return ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime

    seconds(1)
    small, large = seconds(3), seconds(48)
    assert large < 16 * 3 * small


def test_a_large_result_comes_out_whole(tmp_path: Path) -> None:
    done = run(tmp_path, "def main(id, config): return 'x' * 900000")
    assert len(done.last) == 900000


@pytest.mark.parametrize(("code", "expected"), [("", 0), ("0", 0), ("3", 3), ("'no'", 1)])
def test_the_code_of_sys_exit_counts(tmp_path: Path, code: str, expected: int) -> None:
    done = run(tmp_path, f"import sys\ndef main(id, config): sys.exit({code})")
    assert (done.exit_code, done.lines, done.payload) == (expected, [], b"")


def test_ten_megabytes_of_output_come_out_whole(tmp_path: Path) -> None:
    source = "def main(id, config):\n for i in range(10):\n  print('x' * (1 << 20))\n return 1"
    done = run(tmp_path, source)
    assert done.exit_code == 0
    assert len(done.stdout) == 10 * ((1 << 20) + 1) + 2


def test_the_result_has_a_line_of_its_own(tmp_path: Path) -> None:
    done = run(tmp_path, "def main(id, config):\n print('no newline', end='')\n return 1")
    assert done.lines == ["no newline", "1"]


def test_binary_output_passes_unchanged(tmp_path: Path) -> None:
    done = run(tmp_path, "import sys\ndef main(id, config):\n sys.stdout.buffer.write(bytes(range(256)))")
    assert done.stdout.startswith(bytes(range(256)))


def test_a_line_is_seen_when_it_is_printed(tmp_path: Path) -> None:
    bot = BotProcess(
        tmp_path, "python3.11", {"main.py": "import time\ndef main(i, c):\n print('now')\n time.sleep(60)"}, "main.py"
    )
    process = bot.start()
    assert first_line(process) == b"now\n"
    process.terminate()
    assert bot.finish(process).exit_code == 143


def test_any_config_arrives_as_it_was(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "quote's \"": "a\nb\t$HOME `id` \\ ${x} $(y)",
        "ü😀": ["\u2028", None, 1.5, 10**30, {"deep": [[[]]]}],
    }
    source = "import os, json\ndef main(id, config):\n return [config, json.loads(os.environ['BOT_CONFIG'])]"
    assert run(tmp_path, source, config=config).last == [config, config]


def test_a_config_larger_than_an_environment_string_may_be_arrives(tmp_path: Path) -> None:
    source = "import os\ndef main(id, config):\n return [len(config['x']), len(os.environ['BOT_CONFIG'])]"
    assert run(tmp_path, source, config={"x": "y" * 1_000_000}).last == [1_000_000, 1_000_009]


@pytest.mark.parametrize("identity", ["../x", "a/b", "sp ace 😀", "i" * 300, "$(id)'\"\n"])
def test_any_id_arrives_as_it_was(tmp_path: Path, identity: str) -> None:
    source = "import os\ndef main(id, config):\n return [id, os.environ['BOT_ID']]"
    assert run(tmp_path, source, id=identity).last == [identity, identity]


def test_the_environment_is_the_contract(tmp_path: Path) -> None:
    source = "import os\ndef main(id, config): return dict(os.environ, cwd=os.getcwd())"
    seen = run(tmp_path, source, entrypoint="backtest").last
    code = str(tmp_path / "code")
    assert seen["BACKTEST_ID"] == "b1"
    assert seen["BACKTEST_CONFIG"] == "{}"
    assert (seen["ID"], seen["CONFIG"]) == ("b1", "{}")
    assert seen["ENTRYPOINT_TYPE"] == "backtest"
    assert seen["SCRIPT_PATH"] == "main.py"
    assert seen["CODE_MOUNT_DIR"] == code
    assert seen["PYTHONDONTWRITEBYTECODE"] == "1"
    assert seen["cwd"] == code
    assert "BOT_ID" not in seen


def test_vendor_comes_first_then_the_bots_folder_then_the_scripts(tmp_path: Path) -> None:
    files = {
        "vendor/dep.py": "x = 'vendor'",
        "dep.py": "x = 'bot'",
        "own.py": "x = 'own'",
        "src/run.py": "import dep, own, near\ndef main(id, config): return [dep.x, own.x, near.x]",
        "src/near.py": "x = 'near'",
    }
    assert BotProcess(tmp_path, "python3.11", files, "src/run.py").run().last == ["vendor", "own", "near"]


def test_a_script_named_like_a_module_of_python_shadows_nothing(tmp_path: Path) -> None:
    files = {"time.py": "import time\ndef main(id, config): return hasattr(time, 'monotonic')"}
    assert BotProcess(tmp_path, "python3.11", files, "time.py").run().last is True


def test_a_missing_entrypoint_file_is_a_clear_error(tmp_path: Path) -> None:
    done = BotProcess(tmp_path, "python3.11", {"a.py": ""}, "nope.py").run()
    assert done.exit_code == 1
    assert "'nope.py' is not in the bot's archive" in done.last["message"]
    assert done.outcome["failure"]["reason"] == "entrypoint-missing"


def test_a_script_without_main_is_a_clear_error(tmp_path: Path) -> None:
    done = run(tmp_path, "x = 1")
    assert done.exit_code == 1
    assert "no function main(id, config)" in done.last["message"]
    assert done.outcome["failure"]["reason"] == "main-missing"


def test_syntax_error_is_reported_with_its_line(tmp_path: Path) -> None:
    done = run(tmp_path, "def main(:\n")
    assert done.exit_code == 1
    assert b"main.py" in done.stderr
    assert b"SyntaxError" in done.stderr


STOPPABLE = """
import time
def main(id, config):
    try:
        print("up")
        time.sleep(60)
    finally:
        print("cancelled my orders")
"""
STOPPABLE_ASYNC = (
    STOPPABLE.replace("import time", "import asyncio")
    .replace("def", "async def")
    .replace("time.sleep", "await asyncio.sleep")
)


@pytest.mark.parametrize("source", [STOPPABLE, STOPPABLE_ASYNC], ids=["sync", "async"])
def test_sigterm_reaches_the_bots_finally(tmp_path: Path, source: str) -> None:
    bot = BotProcess(tmp_path, "python3.11", {"main.py": source}, "main.py")
    process = bot.start()
    first_line(process)
    process.terminate()
    done = bot.finish(process)
    assert (done.exit_code, done.lines) == (143, ["cancelled my orders"])
    assert done.outcome["reason"] == "terminated"


def test_a_bot_that_catches_exceptions_in_a_loop_still_stops(tmp_path: Path) -> None:
    source = (
        "import time\ndef main(i, c):\n while 1:\n  try:\n   print('up')\n   time.sleep(60)\n  except Exception: pass"
    )
    bot = BotProcess(tmp_path, "python3.11", {"main.py": source}, "main.py")
    process = bot.start()
    first_line(process)
    process.terminate()
    assert bot.finish(process).exit_code == 143


def test_a_main_that_returns_on_sigterm_has_its_result(tmp_path: Path) -> None:
    source = "import time\ndef main(i, c):\n try:\n  print('up')\n  time.sleep(60)\n except SystemExit: return 'closed'"
    bot = BotProcess(tmp_path, "python3.11", {"main.py": source}, "main.py")
    process = bot.start()
    first_line(process)
    process.terminate()
    done = bot.finish(process)
    assert (done.exit_code, done.last) == (0, "closed")


def test_a_bot_killed_by_a_signal_has_its_exit_code(tmp_path: Path) -> None:
    done = run(tmp_path, "import os\ndef main(i, c): os.kill(os.getpid(), 9)")
    assert (done.exit_code, done.lines) == (137, [])


def test_a_bot_that_writes_to_every_descriptor_does_not_reach_the_init(tmp_path: Path) -> None:
    source = """
import os, time
def main():
    time.sleep(0.2)
    for descriptor in range(3, 30):
        try:
            os.write(descriptor, bytes(range(256)))
        except OSError:
            pass
    time.sleep(0.5)
    os._exit(7)
"""
    done = run(tmp_path, source)
    assert (done.exit_code, done.outcome["reason"]) == (7, "exit")


def test_processes_that_the_bot_leaves_end_with_it(tmp_path: Path) -> None:
    source = "import subprocess\ndef main(i, c): return subprocess.Popen(['sleep', '60']).pid"
    assert is_gone(run(tmp_path, source).last)


def test_a_thread_that_never_ends_does_not_keep_the_bot(tmp_path: Path) -> None:
    source = (
        "import threading, time\ndef main(i, c):\n threading.Thread(target=time.sleep, args=(60,)).start()\n return 1"
    )
    assert run(tmp_path, source).last == 1


def test_what_is_registered_for_the_exit_runs(tmp_path: Path) -> None:
    done = run(tmp_path, "import atexit\natexit.register(print, 'bye')\ndef main(i, c): return 1")
    assert done.lines == ["bye", "1"]


def test_a_bot_that_prints_too_fast_is_slowed_down_and_loses_nothing(tmp_path: Path) -> None:
    source = "def main(i, c):\n for i in range(5): print('x' * 99999)"
    started = time.monotonic()
    done = run(tmp_path, source, output_bytes_per_second=400_000, output_burst_bytes=100_000)
    assert len(done.stdout) == 500_000 + 5
    assert time.monotonic() - started > 0.8


IGNORES = """
import signal, time
def main(id, config):
    signal.signal(signal.SIGTERM, lambda *a: print("got SIGTERM"))
    print("up")
    while True:
        time.sleep(1)
"""


def test_a_lease_that_runs_out_ends_even_a_bot_that_ignores_sigterm(tmp_path: Path) -> None:
    # How quickly is the best of three, for the sake of machines that are busy.
    for attempt in range(3):
        files = {"main.py": IGNORES}
        bot = BotProcess(tmp_path / str(attempt), "python3.11", files, "main.py", keepalive_ttl_seconds=60.0)
        done, late_seconds = outlive_lease(bot)
        assert (done.exit_code, done.outcome["reason"]) == (75, "lease-lost")
        assert late_seconds > -0.05
        if done.lines == ["got SIGTERM"] and late_seconds < 0.6:
            return
    pytest.fail(f"it was {late_seconds:.2f} s late, and printed {done.lines}")


def test_a_lease_that_is_renewed_keeps_the_bot(tmp_path: Path) -> None:
    source = "import time\ndef main(i, c):\n print('up')\n time.sleep(3)\n return 'alive'"
    bot = BotProcess(tmp_path, "python3.11", {"main.py": source}, "main.py", keepalive_ttl_seconds=60.0)
    process = bot.start()
    first_line(process)
    write_lease(bot, uptime() + 3)
    # So that it is seen; the bot gets SIGTERM only after more than two seconds.
    time.sleep(0.4)
    write_lease(bot, uptime() + 60, ttl=60.0, counter=1)
    assert bot.finish(process).last == "alive"


def test_a_container_that_starts_after_its_lease_never_starts_the_bot(tmp_path: Path) -> None:
    bot = BotProcess(tmp_path, "python3.11", {"main.py": IGNORES}, "main.py", keepalive_ttl_seconds=5.0)
    write_lease(bot, uptime() - 1)
    done = bot.finish(bot.start())
    assert (done.exit_code, done.lines) == (75, [])


def test_container_that_starts_when_its_lease_is_nearly_over_never_starts_the_bot(tmp_path: Path) -> None:
    # The deadline is half a second ahead when the bot would start, however long the interpreter's start takes.
    bot = BotProcess(tmp_path, "python3.11", {"main.py": IGNORES}, "main.py", keepalive_ttl_seconds=0.5)
    write_lease(bot, uptime() + 600, ttl=0.5)
    done = bot.finish(bot.start())
    assert (done.exit_code, done.lines) == (75, [])
    assert b"not starting" in done.stderr


def test_usage_is_noted_seldom(tmp_path: Path) -> None:
    source = """
import os, time
def main(i, c):
    def spent():
        with open(f'/proc/{os.getppid()}/stat') as file:
            return sum(map(int, file.read().rpartition(')')[2].split()[11:13])) / os.sysconf('SC_CLK_TCK')
    notes = set()
    time.sleep(1.5)
    before, until = spent(), time.monotonic() + 2
    while time.monotonic() < until:
        notes.add(os.stat(NOTE).st_mtime_ns)
        time.sleep(0.01)
    return {'notes': len(notes), 'spent': spent() - before}
"""
    base = tmp_path / "the0" / "private" / "outcome"
    done = run(tmp_path, source.replace("NOTE", repr(str(base))))
    assert done.last["notes"] <= 2
    assert done.last["spent"] < 0.5


def test_under_another_kernel_a_file_that_does_not_change_ends_the_bot(tmp_path: Path) -> None:
    bot = BotProcess(tmp_path, "python3.11", {"main.py": IGNORES}, "main.py", keepalive_ttl_seconds=60.0)
    write_lease(bot, 1e9, ttl=60.0, boot_id="another-kernel")
    process = bot.start()
    first_line(process)
    written = time.monotonic()
    write_lease(bot, 1e9, ttl=1.5, boot_id="another-kernel", counter=1)
    assert bot.finish(process).exit_code == 75
    assert 1.4 < time.monotonic() - written < 30


def test_under_another_kernel_a_file_that_changes_keeps_the_bot(tmp_path: Path) -> None:
    source = "import time\ndef main(i, c):\n print('up')\n time.sleep(3)\n return 'alive'"
    bot = BotProcess(tmp_path, "python3.11", {"main.py": source}, "main.py", keepalive_ttl_seconds=60.0)
    write_lease(bot, 1.0, ttl=60.0, boot_id="another-kernel")
    process = bot.start()
    first_line(process)
    write_lease(bot, 1.0, ttl=3.0, boot_id="another-kernel", counter=1)
    time.sleep(0.4)
    write_lease(bot, 1.0, ttl=60.0, boot_id="another-kernel", counter=2)
    assert bot.finish(process).last == "alive"


def test_switch_fires_while_the_output_is_not_read(tmp_path: Path) -> None:
    source = "def main(i, c):\n while 1: print('x' * 1000)"
    bot = BotProcess(tmp_path, "python3.11", {"main.py": source}, "main.py", keepalive_ttl_seconds=60.0)
    process = bot.start()
    first_line(process)
    write_lease(bot, uptime() + 1.2)
    assert process.wait(timeout=60) == 75
    process.communicate()


def test_an_early_sigterm_is_not_lost(tmp_path: Path) -> None:
    bot = BotProcess(tmp_path, "python3.11", {"main.py": "import time\ntime.sleep(60)\n"}, "main.py")
    process = bot.start()
    while (
        not os.path.exists(f"/proc/{process.pid}/task/{process.pid}/children")
        or not Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    ):
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    assert bot.finish(process).exit_code == 143


BOTH, NOTHING = '["b1", {"x": 1}]', "[]"
DECORATED = """
import functools
def decorated(f):
    @functools.wraps(f)
    def wrapper({taken}):
        return f({taken})
    return wrapper
@decorated
def main({parameters}): return [{parameters}]
"""
SUPPLYING = """
import functools
def supplying(f):
    @functools.wraps(f)
    def wrapper(id, config):
        return f(id, config, 3)
    return wrapper
@supplying
def main(id, config, more): return [id, config]
"""
SIGNATURES = {
    "two": ("def main(id, config): return [id, config]", BOTH),
    "other-names": ("def main(a, b): return [a, b]", BOTH),
    "none": ("def main(): return []", NOTHING),
    "defaults": ("def main(id=None, config=None): return [id, config]", BOTH),
    "more-defaults": ("def main(id, config, more=1): return [id, config]", BOTH),
    "positional-only": ("def main(id, config, /): return [id, config]", BOTH),
    "one-default": ("def main(debug=False): return [] if debug is False else debug", NOTHING),
    "variable": ("def main(*args): return args", BOTH),
    "one-and-variable": ("def main(id, *args): return [id, *args]", BOTH),
    "anything": ("def main(*args, **more): return args", BOTH),
    "by-name": ("def main(**more): return [more['id'], more['config']]", BOTH),
    "keyword-only": ("def main(*, config, id): return [id, config]", BOTH),
    "keyword-only-besides": ("def main(id, config, *, more=1): return [id, config]", BOTH),
    "keyword-only-default": ("def main(*, debug=False): return []", NOTHING),
    "lambda": ("main = lambda: []", NOTHING),
    "async": ("async def main(id, config): return [id, config]", BOTH),
    "async-none": ("async def main(): return []", NOTHING),
    "object": ("class Bot:\n def __call__(self, id, config): return [id, config]\nmain = Bot()", BOTH),
    "object-none": ("class Bot:\n def __call__(self): return []\nmain = Bot()", NOTHING),
    "method": ("class Bot:\n def run(self): return []\nmain = Bot().run", NOTHING),
    "method-two": ("class Bot:\n def run(self, id, config): return [id, config]\nmain = Bot().run", BOTH),
    "static": ("class Bot:\n @staticmethod\n def run(id, config): return [id, config]\nmain = Bot.run", BOTH),
    "partial": ("import functools\nmain = functools.partial(lambda x, id, config: [id, config], 7)", BOTH),
    "partial-none": ("import functools\nmain = functools.partial(lambda x: [], 7)", NOTHING),
    "decorated": (DECORATED.format(taken="*args", parameters="id, config"), BOTH),
    "decorated-none": (DECORATED.format(taken="*args", parameters=""), NOTHING),
    "decorated-supplying": (SUPPLYING, BOTH),
    "in-c": ("main = max", None),
}


@pytest.mark.parametrize("form", list(SIGNATURES))
def test_main_is_called_by_its_signature(tmp_path: Path, form: str) -> None:
    source, expected = SIGNATURES[form]
    done = run(tmp_path, source, config={"x": 1})
    if expected is None:
        # It is called with both, and says itself what is wrong with them.
        assert done.outcome["failure"]["type"] == "TypeError"
    else:
        assert (done.exit_code, done.lines) == (0, [expected])


@pytest.mark.parametrize("parameters", ["id", "a, b, c", "*, x", "id, config, *, x", "config, *, x=1"])
def test_main_that_cannot_be_called_is_reported_with_the_right_signature(tmp_path: Path, parameters: str) -> None:
    done = run(tmp_path, f"def main({parameters}): return 1")
    assert done.exit_code == 1
    assert done.outcome["failure"]["reason"] == "signature"
    assert "write main(id, config)" in done.last["message"]
    assert b"main(id, config)" in done.stderr


def test_a_type_error_inside_main_is_the_bots_own(tmp_path: Path) -> None:
    done = run(tmp_path, "def f(): pass\ndef main(): f(1)")
    assert done.outcome["failure"]["reason"] == "exception"
    assert done.outcome["failure"]["type"] == "TypeError"


def logged(directory: Path, source: str) -> tuple[list[str], list[str]]:
    """What a bot with these lines leaves on stdout, less its result, and on stderr."""
    done = run(directory, source + "\ndef main(): pass")
    assert done.exit_code == 0, done.stderr
    return done.lines[:-1], done.stderr.decode().splitlines()


@pytest.mark.parametrize("logger", ["logging", "logging.getLogger()", "logging.getLogger('my.bot')"])
def test_info_is_logged_to_stderr_without_configuration(tmp_path: Path, logger: str) -> None:
    lines = f"import logging\nlog = {logger}\nlog.debug('one')\nlog.info('two %s', 2)\nlog.warning('three')"
    name = "my.bot" if "my.bot" in logger else "root"
    assert logged(tmp_path, lines) == ([], [f"INFO:{name}:two 2", f"WARNING:{name}:three"])


def test_info_is_logged_before_main_and_in_modules_of_the_bots_own(tmp_path: Path) -> None:
    files = {
        "main.py": "import other\nimport logging\nasync def main():\n logging.getLogger('b').info('in main')",
        "other.py": "from logging import getLogger\ngetLogger(__name__).info('on import')",
    }
    done = BotProcess(tmp_path, "python3.11", files, "main.py").run()
    assert done.stderr.decode().splitlines() == ["INFO:other:on import", "INFO:b:in main"]


def test_a_basic_config_of_the_bots_own_has_its_effect(tmp_path: Path) -> None:
    lines = """
import logging, sys
log = logging.getLogger("my.bot")
log.info("before")
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout, format="%(levelname)s my %(message)s")
log.debug("one")
logging.info("two")
logging.getLogger().setLevel(logging.ERROR)
log.warning("hidden")
"""
    assert logged(tmp_path, lines) == (["DEBUG my one", "INFO my two"], ["INFO:my.bot:before"])


def test_a_level_of_the_bots_own_has_its_effect(tmp_path: Path) -> None:
    lines = "import logging\nlogging.basicConfig(level=logging.WARNING)\nlogging.info('no')\nlogging.warning('yes')"
    assert logged(tmp_path, lines) == ([], ["WARNING:root:yes"])


def test_a_handler_of_the_bots_own_shows_each_line_once(tmp_path: Path) -> None:
    lines = """
import logging, sys
log = logging.getLogger("my")
log.addHandler(logging.StreamHandler(sys.stdout))
log.info("once")
logging.getLogger("other").info("by default")
"""
    assert logged(tmp_path, lines) == (["once"], ["INFO:other:by default"])


def test_a_dict_config_of_the_bots_own_has_its_effect(tmp_path: Path) -> None:
    lines = """
import logging, logging.config
logging.getLogger("early").info("before")
logging.config.dictConfig({
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"f": {"format": "f %(message)s"}},
    "handlers": {"out": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "f"}},
    "root": {"level": "DEBUG", "handlers": ["out"]},
})
logging.getLogger("my").debug("one")
logging.getLogger("early").info("two")
"""
    assert logged(tmp_path, lines) == (["f one", "f two"], ["INFO:early:before"])


def test_a_module_named_logging_of_the_bots_own_is_left_alone(tmp_path: Path) -> None:
    files = {"main.py": "import logging\ndef main(): return logging.x", "logging.py": "x = 7"}
    assert BotProcess(tmp_path, "python3.11", files, "main.py").run().last == 7


def test_the_module_logging_looks_as_it_does_elsewhere(tmp_path: Path) -> None:
    source = """
import inspect, logging, sys
def main():
    hooks = [finder for finder in sys.meta_path if "LoggingAtInfo" in str(finder)]
    loader = logging.__spec__.loader
    source = inspect.getsource(logging)
    return [len(hooks), type(loader).__name__, "exec_module" in vars(loader), "class Logger" in source]
"""
    assert run(tmp_path, source).last == [0, "SourceFileLoader", False, True]


def test_a_bot_that_does_not_log_does_not_wait_for_the_module(tmp_path: Path) -> None:
    source = (
        "import sys\ndef main(id, config): return sorted({'logging', 'inspect', 'json', 'typing'} & set(sys.modules))"
    )
    assert run(tmp_path, source).last == []


FOREIGN = "cpython-312-x86_64-linux-gnu.so"
RECORD = "fast_lib-1.0.dist-info/RECORD"
HINTS = {
    "missing": ("import ccxt", {}, "pip install --target vendor ccxt"),
    "missing-inside": ("import ccxt.async_support", {}, "pip install --target vendor ccxt"),
    "another-name": ("import sklearn.linear_model", {}, "pip install --target vendor scikit-learn"),
    "of-a-package": ("import lib", {"vendor/lib/__init__.py": "import numpy"}, "pip install --target vendor numpy"),
    "in-main": ("def main(): import ccxt", {}, "pip install --target vendor ccxt"),
    "raised-from": (
        "try:\n import ccxt\nexcept ImportError as e:\n raise RuntimeError('no ccxt') from e",
        {},
        "pip install --target vendor ccxt",
    ),
    "other-python": (
        "import fast",
        {"vendor/fast/__init__.py": "from . import _core", f"vendor/fast/_core.{FOREIGN}": ""},
        "--python-version 3.11 --only-binary=:all: fast",
    ),
    "other-python-inside": (
        "import fast._core",
        {"vendor/fast/__init__.py": "", f"vendor/fast/_core.{FOREIGN}": ""},
        "--python-version 3.11 --only-binary=:all: fast",
    ),
    "other-python-wrapped": (
        "import fast",
        {
            "vendor/fast/__init__.py": "try:\n from fast.core import _c\nexcept ImportError as e:\n"
            " raise ImportError('a long text') from e",
            "vendor/fast/core/__init__.py": "",
            f"vendor/fast/core/_c.{FOREIGN}": "",
        },
        "--python-version 3.11 --only-binary=:all: fast",
    ),
    "other-python-alone": (
        "import fast",
        {f"vendor/fast.{FOREIGN}": "", f"vendor/{RECORD}": f"fast.{FOREIGN},,\n"},
        "--python-version 3.11 --only-binary=:all: fast_lib",
    ),
    "other-system": (
        "import fast",
        {"vendor/fast/__init__.py": "from . import _core", "vendor/fast/_core.cp311-win_amd64.pyd": ""},
        f"--platform manylinux2014_{os.uname().machine} fast",
    ),
    "damaged": (
        "import fast",
        {"vendor/fast/__init__.py": "from . import _core", "vendor/fast/_core.so": "no library"},
        "_core.so was compiled for another Python or system",
    ),
}


@pytest.mark.parametrize("form", list(HINTS))
def test_failing_import_is_reported_with_the_fixing_command(tmp_path: Path, form: str) -> None:
    source, files, words = HINTS[form]
    if "def main" not in source:
        source += "\ndef main(): pass"
    done = BotProcess(tmp_path, "python3.11", {"main.py": source, **files}, "main.py").run()
    assert done.exit_code == 1
    assert words in done.outcome["failure"]["hint"]
    assert done.outcome["failure"]["reason"] == "exception"
    hint = done.stderr.decode().splitlines()[-1]
    assert hint == f"hint: {done.outcome['failure']['hint']}"
    assert set(done.last) == {"status", "message"}


@pytest.mark.parametrize(
    "source",
    [
        "raise ValueError(\"No module named 'requests'\")",
        "from json import nope",
        "__import__('no; rm -rf ~')",
        "raise ImportError('no', name='ccxt')",
        "import fast.other",
        "from both import other",
        "import lib.nope",
        "import msilib",
        "from . import x",
    ],
)
def test_failure_without_a_remedy_has_no_hint(tmp_path: Path, source: str) -> None:
    files = {
        "main.py": source + "\ndef main(): pass",
        "lib/__init__.py": "",
        "fast/__init__.py": "",
        f"fast/_core.{FOREIGN}": "",
        "both/__init__.py": "",
        f"both/_core.{FOREIGN}": "",
        f"both/_core{EXTENSION_SUFFIXES[0]}": "",
    }
    done = BotProcess(tmp_path, "python3.11", files, "main.py").run()
    assert done.exit_code == 1
    assert "hint" not in done.outcome["failure"]
    assert b"hint:" not in done.stderr
