"""`runtime bot show` over a real MongoDB."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from libs.core.process.service import BOT_RUNNER
from tests.support.rigs.commands import Commands
from tools.cli.exit_codes import ExitCode

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def stored(commands: Commands, **status: object) -> None:
    database = commands.mongo[BOT_RUNNER.database]
    lease = {"worker_id": "w1", "instance_id": "i", "host": "h", "epoch": 1}
    lease |= {"expires_at": datetime.now(UTC) + timedelta(minutes=30)}
    database["partitions"].insert_one({"_id": 3, "bot_count": 1, "lease": lease})
    database["bots"].insert_one(
        {
            "id": "b1",
            "segment_id": 3,
            "config": {"symbol": "BTC-USD", "api_key": "hush"},
            "custom": {"version": "1.2.3", "config": {"runtime": "python3.11"}},
            "status": {"worker": "w1", "since": NOW, **status},
        }
    )
    database["runs"].insert_one(
        {"_id": "r1", "entity_id": "b1", "segment_id": 3, "worker_id": "w1", "host": "h", "epoch": 1}
        | {"started_at": NOW, "ended_at": NOW + timedelta(seconds=30), "reason": "error", "exit_code": 1}
        | {"last_lines": ["ValueError: no funds"], "open": False}
    )


def test_a_bot_is_shown_with_where_it_runs_its_masked_config_and_its_runs(commands: Commands) -> None:
    stored(commands, state="running")

    bot = commands.json("bot", "show", "b1")
    text = commands.text("bot", "show", "b1")

    assert (bot["state"], bot["segment"], bot["worker"], bot["version"]) == ("running", 3, "w1", "1.2.3")
    assert bot["config"]["symbol"] == "BTC-USD"
    assert "hush" not in str(bot) + text
    assert [(run["run_id"], run["state"], run["exit_code"]) for run in bot["runs"]] == [("r1", "error", 1)]
    assert text.startswith("b1 running\n")
    assert '"symbol": "BTC-USD"' in text
    assert "ValueError: no funds" in text


def test_a_bot_that_waits_for_room_is_shown_with_what_it_needs_when_no_master_can_be_asked(commands: Commands) -> None:
    detail = "waiting: needs 512 MiB, the engine has 130 MiB free"
    stored(commands, state="waiting", detail=detail, lacking={"memory_bytes": 512, "cpus": 0.0})

    bot = commands.json("bot", "show", "b1")

    assert (bot["lacking"], bot["missing"]) == ({"memory_bytes": 512, "cpus": 0.0}, "")
    assert f"b1 waiting\n  {detail}\n" in commands.text("bot", "show", "b1")


def test_a_bot_that_does_not_wait_lacks_nothing(commands: Commands) -> None:
    stored(commands, state="running", lacking={"memory_bytes": 512, "cpus": 0.0})

    assert commands.json("bot", "show", "b1")["lacking"] is None


def test_an_unknown_bot_is_not_found(commands: Commands) -> None:
    code, _, err = commands.run("bot", "show", "typo")

    assert (code, "there is no bot 'typo'" in err) == (ExitCode.NOT_FOUND, True)


def test_a_bot_that_backs_off_is_shown_with_its_next_restart(commands: Commands) -> None:
    stored(commands, state="backing-off", failures=3, not_before=NOW.timestamp())

    bot = commands.json("bot", "show", "b1")

    assert (bot["next_restart"], bot["failures"]) == (NOW.isoformat(), 3)
    assert "(after 3 failures)" in commands.text("bot", "show", "b1")


def test_a_held_bot_is_shown_with_all_its_holds_and_their_reasons(commands: Commands) -> None:
    stored(commands, state="running")
    commands.text("bot", "kill", "--all", "--reason", "incident 7", "--no-wait")
    commands.text("bot", "stop", "b1", "--reason", "fees", "--no-wait")

    bot = commands.json("bot", "show", "b1")
    text = commands.text("bot", "show", "b1")

    assert [(hold["state"], hold["target"], hold["reason"]) for hold in bot["holds"]] == [
        ("killed", "all", "incident 7"),
        ("stopped", "id b1", "fees"),
    ]
    assert ": incident 7" in text
    assert ": fees" in text


class _Usage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        is_right = self.headers["Authorization"] == "Bearer t" and self.path == "/api/v1/entities/b1/usage"
        usage = {
            "cpus": 0.25,
            "cpu_seconds": 12.0,
            "memory_bytes": 50 << 20,
            "memory_limit_bytes": 512 << 20,
            "pids": 1,
        }
        self.send_response(200 if is_right else 401)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(usage).encode())

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def worker(commands: Commands) -> Iterator[None]:
    """The worker `w1`, which answers what its bot uses."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Usage)
    known: dict[str, object] = {
        "role": "worker",
        "name": "w1",
        "hostname": "h",
        "addresses": ["127.0.0.1"],
        "token": "t",
    }
    known |= {"http_port": server.server_address[1], "seen_at": datetime.now(UTC)}
    commands.mongo[BOT_RUNNER.database]["processes"].insert_one({"_id": "worker:w1", **known})
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_running_bot_is_shown_with_what_it_uses_now(commands: Commands) -> None:
    stored(commands, state="running")
    assert commands.json("bot", "show", "b1")["usage"] is None

    with worker(commands):
        bot = commands.json("bot", "show", "b1")
        text = commands.text("bot", "show", "b1")

    assert (bot["usage"]["cpus"], bot["usage"]["memory_bytes"]) == (0.25, 50 << 20)
    assert "cpu: 0.25, 12.0 s since its start" in text
    assert "memory: 50 of 512 MiB" in text
