"""`runtime bot history`, `rollback` and `restart` over real servers, where no worker runs."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from minio import Minio

from libs.core.secrets.withholding import withhold
from libs.core.store.client import Mongo
from libs.core.store.entities import Entity
from libs.core.store.revisions import Revision, RevisionStore
from tests.support.rigs.commands import Commands
from tools.cli.exit_codes import ExitCode
from tools.stack.s3 import S3Server

LIMIT_SECONDS = 60.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "ticker"
    path.mkdir()
    return path


def deploy(commands: Commands, folder: Path, version: int, *more: str) -> dict[str, Any]:
    """Deploy a version as the bot `b`, and note it as its worker would; return its document."""
    (folder / "main.py").write_text(f"def main(id, config):\n    return {version}\n")
    commands.json("bot", "deploy", str(folder), "--id", "b", "--no-wait", *more)
    document = commands.mongo["bot_runner"]["bots"].find_one({"id": "b"})
    assert document is not None
    return document


def noted(mongo_uri: str, document: dict[str, Any], **more: Any) -> None:
    """Write a revision into the history."""
    config, withheld = withhold(document["config"])
    revision = Revision(
        "b",
        document["revision"],
        document["_id"],
        f"k{document['revision']}",
        datetime.now(UTC),
        str(document["custom"]["deployedBy"]),
        config,
        withheld,
        document["custom"],
        f"{document['revision']:064}",
        accepted=True,
    )

    async def write() -> None:
        mongo = Mongo(mongo_uri)
        await RevisionStore(mongo.database("bot_runner")).write([replace(revision, **more)])
        await mongo.close()

    asyncio.run(write())


def bot(commands: Commands) -> Entity:
    document = commands.mongo["bot_runner"]["bots"].find_one({"id": "b"})
    assert document is not None
    return Entity.of(document)


def test_history_lists_revisions_with_their_runs_and_without_values_of_the_config(
    commands: Commands, mongo_uri: str, folder: Path
) -> None:
    for version in (1, 2):
        noted(mongo_uri, deploy(commands, folder, version, "--config", '{"api_key": "hush", "pace": 17}'))
    begun = datetime.now(UTC) + timedelta(seconds=1)
    commands.mongo["bot_runner"]["runs"].insert_one(
        {"_id": "r1", "entity_id": "b", "segment_id": 1, "worker_id": "w", "host": "h", "epoch": 1, "revision": 1}
        | {"started_at": begun, "ended_at": begun + timedelta(seconds=30), "reason": "changed", "open": False}
    )

    newest, first = commands.json("bot", "history", "b")
    text = commands.text("bot", "history", "b")

    assert (newest["revision"], newest["state"], newest["runs"]) == (2, "waiting", 0)
    assert (first["revision"], first["state"], first["runs"], first["seconds"]) == (1, "replaced", 1, 30.0)
    assert (first["end_reason"], first["withheld"]) == ("changed", ["api_key"])
    assert first["code"] != newest["code"]
    assert "@" in first["who"]
    assert "hush" not in text + str(first) + str(newest)


def test_history_of_an_unknown_bot_is_not_found(commands: Commands) -> None:
    assert commands.run("bot", "history", "typo")[0] == ExitCode.NOT_FOUND


def test_rollback_deploys_the_earlier_code_and_config_with_the_present_secrets(
    commands: Commands, mongo_uri: str, folder: Path
) -> None:
    first = deploy(commands, folder, 1, "--config", '{"pace": 5, "api_key": "old", "ref_token": {"$secret": "s"}}')
    noted(mongo_uri, first)
    noted(mongo_uri, deploy(commands, folder, 2, "--config", '{"pace": 9, "api_key": "new"}'))
    commands.text("bot", "stop", "b")

    done = commands.json("bot", "rollback", "b", "--no-wait")

    now = bot(commands)
    assert done["restored"] == 1
    assert now.revision == 3
    assert now.config == {"pace": 5, "api_key": "new", "ref_token": {"$secret": "s"}}
    assert now.custom["filePath"] == first["custom"]["filePath"]
    assert now.custom["updatedAt"] > first["custom"]["updatedAt"]
    assert commands.json("bot", "show", "b")["state"] == "stopped"
    entries = commands.json("audit", "--id", "b")
    assert "rollback to revision 1" in [entry["detail"] for entry in entries]


def test_rollback_to_code_that_no_longer_exists_changes_nothing_and_names_it(
    commands: Commands, mongo_uri: str, folder: Path, s3_server: S3Server, bucket_prefix: str
) -> None:
    first = deploy(commands, folder, 1)
    noted(mongo_uri, first)
    noted(mongo_uri, deploy(commands, folder, 2))
    before = bot(commands)
    storage = Minio(s3_server.endpoint, s3_server.access_key, s3_server.secret_key, secure=False)
    storage.remove_object(f"{bucket_prefix}bots", first["custom"]["filePath"])

    code, _, err = commands.run("bot", "rollback", "b", "1", "--no-wait")

    assert code == ExitCode.NOT_FOUND
    assert f"the code of revision 1 no longer exists ({bucket_prefix}bots/{first['custom']['filePath']})" in err
    assert bot(commands) == before


def test_rollback_to_code_that_was_replaced_under_its_key_is_refused(
    commands: Commands, mongo_uri: str, folder: Path
) -> None:
    noted(mongo_uri, deploy(commands, folder, 1), code_etag="another")
    noted(mongo_uri, deploy(commands, folder, 2))

    code, _, err = commands.run("bot", "rollback", "b", "1", "--no-wait")

    assert (code, "was replaced by other code" in err) == (ExitCode.NOT_FOUND, True)


def test_rollback_without_a_present_value_of_a_secret_is_refused(
    commands: Commands, mongo_uri: str, folder: Path
) -> None:
    noted(mongo_uri, deploy(commands, folder, 1, "--config", '{"api_key": "old"}'))
    noted(mongo_uri, deploy(commands, folder, 2, "--config", "{}", "--reset-config"))
    before = bot(commands)

    code, _, err = commands.run("bot", "rollback", "b", "--no-wait")

    assert (code, "no value for api_key" in err) == (ExitCode.FAILED, True)
    assert bot(commands) == before


def test_rollback_to_a_config_that_its_schema_refuses_changes_nothing_and_names_the_value(
    commands: Commands, mongo_uri: str, folder: Path
) -> None:
    schema = {"type": "object", "properties": {"api_key": {"type": "string"}, "pace": {"minimum": 1}}}
    (folder / "bot.json").write_text(json.dumps({"schema": schema}))
    noted(mongo_uri, deploy(commands, folder, 1, "--config", '{"pace": 5, "api_key": "old"}'))
    (folder / "bot.json").unlink()
    noted(mongo_uri, deploy(commands, folder, 2, "--config", '{"pace": 0, "api_key": 7}'))
    before = bot(commands)

    code, _, err = commands.run("bot", "rollback", "b", "--no-wait")

    assert code == ExitCode.USAGE
    assert "the restored config: config.api_key" in err
    assert "the `schema` of the description that was deployed" in err
    assert bot(commands) == before


@pytest.mark.parametrize("revision", [[], ["9"]])
def test_rollback_without_such_a_revision_is_not_found(
    commands: Commands, mongo_uri: str, folder: Path, revision: list[str]
) -> None:
    noted(mongo_uri, deploy(commands, folder, 1))

    assert commands.run("bot", "rollback", "b", *revision, "--no-wait")[0] == ExitCode.NOT_FOUND


@contextmanager
def worker(commands: Commands, state: str, **more: Any) -> Iterator[None]:
    """A worker that carries out one restart of each bot, with *state* as its outcome."""
    bots = commands.mongo["bot_runner"]["bots"]
    over = threading.Event()

    def follow() -> None:
        deadline = time.monotonic() + LIMIT_SECONDS
        while not over.wait(0.02) and time.monotonic() < deadline:
            for found in bots.find({"restart": {"$exists": True}}):
                status = {"state": state, "restart": found["restart"]["id"], "run_id": f"new {found['id']}", **more}
                bots.update_one({"_id": found["_id"]}, {"$set": {"status": status}})

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(LIMIT_SECONDS)


def stored(commands: Commands, *ids: str, **more: Any) -> None:
    for bot_id in ids:
        commands.mongo["bot_runner"]["bots"].insert_one(
            {"id": bot_id, "segment_id": 1, "config": {}, "custom": {"config": {}}, **more}
            | {"status": {"state": "running", "run_id": f"old {bot_id}"}}
        )


def test_bots_are_restarted_and_the_command_waits_until_each_runs_again(commands: Commands) -> None:
    stored(commands, "b", "c")
    with worker(commands, "running", worker="w1"):
        done = commands.json("bot", "restart", "b", "c", "b", "--reason", "leak")

    assert [(one["id"], one["state"], one["run_id"]) for one in done] == [
        ("b", "running", "new b"),
        ("c", "running", "new c"),
    ]
    assert [entry["detail"] for entry in commands.json("audit", "--id", "b")] == ["restart: leak"]


def test_bot_after_one_that_does_not_run_again_is_not_restarted(commands: Commands) -> None:
    stored(commands, "b", "c")
    with worker(commands, "backing-off", failures=1, detail="exit code 3"):
        code, _, err = commands.run("bot", "restart", "b", "c")

    assert (code, "does not run again: exit code 3" in err) == (ExitCode.FAILED, True)
    assert commands.mongo["bot_runner"]["bots"].count_documents({"restart": {"$exists": True}}) == 1


def test_restart_of_a_bot_that_must_not_run_requests_nothing(commands: Commands) -> None:
    stored(commands, "b", "c")
    stored(commands, "off", enabled=False)
    commands.text("bot", "stop", "c", "--no-wait")

    held, disabled = commands.run("bot", "restart", "b", "c"), commands.run("bot", "restart", "b", "off")

    assert (held[0], "`runtime bot start` lets it run" in held[2]) == (ExitCode.FAILED, True)
    assert (disabled[0], "is disabled" in disabled[2]) == (ExitCode.FAILED, True)
    assert commands.run("bot", "restart", "typo")[0] == ExitCode.NOT_FOUND
    assert commands.mongo["bot_runner"]["bots"].count_documents({"restart": {"$exists": True}}) == 0


def test_restart_that_is_not_waited_for_is_stored(commands: Commands) -> None:
    stored(commands, "b")

    assert commands.text("bot", "restart", "b", "--no-wait") == "b: restart requested\n"
    assert bot(commands).restart != ""
