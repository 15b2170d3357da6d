"""`runtime bot deploy` that is left while it watches the new version."""

import signal
from pathlib import Path

from pymongo import MongoClient

from tests.support.eventually import eventually
from tests.support.rigs.terminal import Terminal
from tools.cli.exit_codes import ExitCode


async def test_ctrl_c_during_the_watch_reports_that_the_version_is_deployed(
    mongo_uri: str, server_variables: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "main.py").write_text("def main(id, config): pass\n")
    with MongoClient[dict[str, object]](mongo_uri) as client:
        database = client["bot_runner"]

        def watches() -> bool:
            """Whether the bot was read after it was written."""
            written = database["system.profile"].find_one({"op": "insert", "ns": "bot_runner.bots"})
            later = {"op": {"$in": ["query", "command"]}, "ns": "bot_runner.bots"}
            return written is not None and bool(
                database["system.profile"].find_one({**later, "ts": {"$gt": written["ts"]}})
            )

        database.command("profile", 2)
        try:
            process = await Terminal(tmp_path / "home", server_variables).start("bot", "deploy", str(tmp_path / "b"))
            await eventually(watches)
            process.send_signal(signal.SIGINT)
            out, err = await process.communicate()
        finally:
            database.command("profile", 0)
            client.drop_database("bot_runner")

    assert (process.returncode, out) == (ExitCode.INTERRUPTED, b"")
    assert err.decode() == (
        "interrupted; the new version of 'b' was published, and the workers continue with it: `runtime bot ls` shows "
        "it\n"
    )
