"""Bots that vendor the published SDK, unmodified, as plain processes of this host."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.rigs.bot_process import BotProcess, Finished
from tests.support.sdk import sdk_files

TRADED = {"status": "success", "message": "traded", "data": {"price": 5}}
WRITE = "import json\ndef write(text): open('/' + os.environ['CODE_MOUNT_DIR'] + '/result.json', 'w').write(text)\n"


def bot(directory: Path, body: str, *, runtime: str = "python3.11", **more: Any) -> BotProcess:
    """A bot whose main has the lines of *body*."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    source = f"import os, sys, the0\nfrom the0 import *\n{WRITE}def main(id, config):\n{lines}\n"
    return BotProcess(directory, runtime, {"main.py": source, **sdk_files()}, "main.py", **more)


def run(directory: Path, body: str, **more: Any) -> Finished:
    return bot(directory, body, **more).run()


@pytest.mark.parametrize("entrypoint", ["bot", "backtest"])
def test_success_is_the_result_and_the_last_line_of_a_main_that_returns_nothing(
    tmp_path: Path, entrypoint: str
) -> None:
    done = run(tmp_path, "print('trading')\nsuccess('traded', {'price': 5})", entrypoint=entrypoint)

    assert (done.exit_code, done.outcome["kind"], done.stderr) == (0, "result", b"")
    assert json.loads(done.payload) == TRADED
    assert done.lines[0] == "trading"
    assert done.last == TRADED
    assert len(done.lines) == 2


def test_result_is_passed_on_as_it_was_written(tmp_path: Path) -> None:
    done = run(tmp_path, "result({'metrics': {'pnl': 1.5}, 'n': float('nan')})")

    assert done.payload == b'{"metrics": {"pnl": 1.5}, "n": NaN}'


def test_error_ends_the_bot_with_its_message_as_a_written_result(tmp_path: Path) -> None:
    done = run(tmp_path, "error('no funds', {'available': 1})\nprint('not reached')")

    expected = {"status": "error", "message": "no funds", "data": {"available": 1}}
    assert (done.exit_code, done.outcome["kind"]) == (1, "written")
    assert json.loads(done.payload) == expected
    assert done.lines == [json.dumps(expected)]
    assert json.loads(done.stderr)["message"] == "no funds"


@pytest.mark.parametrize("ending", ["return None", "sys.exit()", "sys.exit(0)", "os._exit(0)"])
def test_written_result_counts_however_the_bot_ends_well(tmp_path: Path, ending: str) -> None:
    done = run(tmp_path, f"success('traded', {{'price': 5}})\n{ending}")

    assert (done.exit_code, json.loads(done.payload)) == (0, TRADED)


@pytest.mark.parametrize("value", [{"a": 1}, [], 0, False, ""])
def test_what_main_returns_is_the_result_although_it_wrote_another(tmp_path: Path, value: object) -> None:
    done = run(tmp_path, f"success('traded')\nreturn {value!r}")

    assert (done.exit_code, json.loads(done.payload), done.last) == (0, value, value)


def test_exception_is_the_end_although_a_success_was_written(tmp_path: Path) -> None:
    done = run(tmp_path, "success('traded')\nraise ValueError('no')")

    assert (done.exit_code, done.outcome["kind"]) == (1, "error")
    assert done.last == {"status": "error", "message": "no"}


def test_bot_that_is_killed_by_a_signal_has_no_written_result(tmp_path: Path) -> None:
    done = run(tmp_path, "success('traded')\nos.kill(os.getpid(), 9)")

    assert (done.exit_code, done.outcome["kind"], done.payload, done.stdout) == (137, "none", b"", b"")


def test_result_of_a_process_that_the_bot_started_counts(tmp_path: Path) -> None:
    body = "import subprocess\nsubprocess.run([sys.executable, '-c', 'import sys; sys.path[:] = %r\\n"
    body += 'from the0 import success; success("traded")\' % sys.path], check=True)'
    done = run(tmp_path, body)

    assert json.loads(done.payload) == {"status": "success", "message": "traded"}


def test_metrics_and_structured_logs_are_lines_of_their_own(tmp_path: Path) -> None:
    done = run(tmp_path, "metric('price', {'symbol': 'BTC/USD', 'value': 45000.5})\nlog('placed', {'id': 7}, 'warn')")

    metric, entry = json.loads(done.lines[0]), json.loads(done.stderr)
    assert (metric["_metric"], metric["symbol"], metric["value"]) == ("price", "BTC/USD", 45000.5)
    assert (entry["level"], entry["message"], entry["id"]) == ("warn", "placed", 7)


def test_parse_returns_what_main_is_called_with(tmp_path: Path) -> None:
    done = run(tmp_path, "return [list(the0.parse()), [id, config]]", config={"symbol": "BTC"})

    assert done.last[0] == done.last[1] == ["b1", {"symbol": "BTC"}]


def test_state_and_query_are_imported_with_the_sdk(tmp_path: Path) -> None:
    done = run(tmp_path, "from the0 import state, query\nreturn [state.get('k', 5), query.is_query_mode()]")

    assert done.last == [5, False]


@pytest.mark.parametrize("size", [4, 100_000])
def test_result_of_the_largest_size_is_accepted_and_a_larger_one_is_named(tmp_path: Path, size: int) -> None:
    text = json.dumps("x" * (size - 2))
    done = run(tmp_path / "fits", f"write({text!r})", result_bytes=size)
    over = run(tmp_path / "over", f"write({text + ' '!r})", result_bytes=size)

    assert (done.exit_code, done.payload) == (0, text.encode())
    message = f"result.json has more than {size} bytes of JSON"
    assert (over.exit_code, over.outcome["kind"]) == (1, "error")
    assert over.outcome["failure"] == {"reason": "result-too-large", "message": message}
    assert over.last == {"status": "error", "message": message}


def test_larger_result_of_a_bot_that_failed_is_dropped(tmp_path: Path) -> None:
    done = run(tmp_path, "error('x' * 100)", result_bytes=50)

    assert (done.exit_code, done.outcome["kind"], done.payload, done.stdout) == (1, "none", b"", b"")


HOSTILE = {
    "empty": "write('')",
    "folder": "os.mkdir(written)",
    "pipe": "os.mkfifo(written)",
    "link to a file": "os.symlink(written + '.x', written)\nopen(written + '.x', 'w').write('5')",
    "link to the init's memory": "os.symlink('/proc/self/maps', written)",
    "link to itself": "os.symlink(written, written)",
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_written_file_is_no_result_and_holds_nothing_up(tmp_path: Path, body: str) -> None:
    made = bot(tmp_path, f"written = os.readlink(os.path.join(os.environ['CODE_MOUNT_DIR'], 'result.json'))\n{body}")
    done = made.run()

    assert (done.exit_code, done.payload, done.lines) == (0, b"null", ["null"])


def test_file_without_an_end_is_as_large_as_the_limit_allows(tmp_path: Path) -> None:
    done = run(tmp_path, "write('')\nos.truncate(os.path.join(os.environ['CODE_MOUNT_DIR'], 'result.json'), 1 << 40)")

    assert (done.exit_code, done.outcome["failure"]["reason"]) == (1, "result-too-large")
    assert len(done.payload) < 1000


@pytest.mark.skipif(os.getuid() != 0, reason="the init is root in a container")
def test_result_is_read_with_the_rights_of_the_bot(tmp_path: Path) -> None:
    made = bot(
        tmp_path, "success('traded')\nos.chmod(os.path.join(os.environ['CODE_MOUNT_DIR'], 'result.json'), 0o600)"
    )
    done = made.run()

    assert json.loads(done.payload)["message"] == "traded"


NO_AMOUNT = {"status": "error", "message": "the amount is missing"}
NODE_TRADED = {"status": "success", "message": "traded", "data": {"amount": 2}}


@pytest.mark.parametrize(
    ("amount", "code", "kind", "expected"), [(2, 0, "result", NODE_TRADED), (0, 1, "written", NO_AMOUNT)]
)
def test_node_bot_of_the_documentation_writes_its_result_and_prints_its_metric(
    tmp_path: Path, amount: int, code: int, kind: str, expected: dict[str, object]
) -> None:
    config = {"symbol": "BTC/USD", "amount": amount}
    done = BotProcess(tmp_path, "nodejs20", {"main.js": documented("_metric")}, "main.js", config=config).run()

    assert (done.exit_code, done.outcome["kind"]) == (code, kind)
    assert json.loads(done.lines[0]) == {"_metric": "price", "symbol": "BTC/USD", "value": 45000.5}
    assert json.loads(done.payload) == done.last == expected


def documented(word: str) -> str:
    """Return the example in JavaScript of README.md that contains *word*."""
    text = (Path(__file__).parents[3] / "README.md").read_text()
    (example,) = [block for block in re.findall(r"```js\n(.*?)```", text, re.DOTALL) if word in block]
    return str(example)
