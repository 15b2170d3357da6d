"""A bad deploy: the running version keeps running, here and on the next worker, and misses no tick."""

import json
import re
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.eventually import eventually
from tests.support.observers.overlaps import overlap_watch
from tests.support.rigs.deployment import PATIENT, Deployment, deployment
from tests.support.rigs.platform import zipped
from tools.engine.ensure import Engine

TICKER = """
import time

def main(id, config):
    print("version", config.get("v"), flush=True)
    tick = 0
    while True:
        tick += 1
        print("tick", tick, flush=True)
        time.sleep(0.1)
"""
CRASHER = """
import time

def main(id, config):
    print("about to fail", flush=True)
    time.sleep(0.5)
    raise ValueError("no funds")
"""
TOO_MUCH = {"v": 2, "resources": {"memoryMb": 10**7}}

BAD_DEPLOYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "limits": (TOO_MUCH, {}),
    "runtime": ({"v": 2}, {"runtime": "cobol60"}),
    "archive": ({"v": 2}, {"key": "broken.zip"}),
    "code-missing": ({"v": 2}, {"key": "absent.zip"}),
    "entrypoint": ({"v": 2}, {"script": "absent.py"}),
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def runner(tmp_path_factory: pytest.TempPathFactory, docker_engine: Engine) -> AsyncIterator[Deployment]:
    """A master and one worker, shared by the tests of this file that end no process."""
    one_segment = {**PATIENT, "MAX_BOTS_PER_PARTITION": "100"}
    async with deployment(tmp_path_factory.mktemp("deploys"), docker_engine, settings=one_segment) as made:
        await made.start(workers=1)
        upload(made)
        yield made


def upload(made: Deployment) -> None:
    made.platform.upload("ticker.zip", zipped({"main.py": TICKER}))
    made.platform.upload("crasher.zip", zipped({"main.py": CRASHER}))
    made.platform.upload("broken.zip", b"PK\x03\x04 this is no archive")


async def status(runner: Deployment, bot_id: str) -> dict[str, Any]:
    return dict((await runner.document(bot_id) or {}).get("status") or {})


async def rejected_as(runner: Deployment, bot_id: str) -> str:
    """Why the newest version of a bot that runs is rejected; empty while none is."""
    now = await status(runner, bot_id)
    return str((now.get("rejection") or {}).get("reason", "")) if now.get("state") == "running" else ""


def ticks(output: str) -> list[int]:
    return [int(number) for number in re.findall(r"^tick (\d+)", output, re.MULTILINE)]


async def test_bad_deploys_of_every_kind_leave_the_running_container_alone(runner: Deployment) -> None:
    await runner.platform.create_bot("steady", {"v": 1}, key="ticker.zip", version="1.0.0")
    before = await eventually(lambda: runner.running_with("steady", "tick 1\n"))
    assert before is not None

    for reason, (config, description) in BAD_DEPLOYS.items():
        await runner.platform.update_bot("steady", config, **{"key": "ticker.zip", "version": "2.0.0", **description})
        await eventually(partial(is_rejected_as, runner, "steady", reason))

    [after] = await runner.containers("steady")
    assert after["Id"] == before["Id"]
    seen = ticks(runner.output(after))
    assert seen == list(range(1, len(seen) + 1))
    detail = (await status(runner, "steady"))["detail"]
    assert detail.startswith("version 2.0.0 rejected: ")
    assert detail.endswith("; version 1.0.0 keeps running")


async def is_rejected_as(runner: Deployment, bot_id: str, reason: str) -> bool:
    return await rejected_as(runner, bot_id) == reason


async def test_archive_that_is_overwritten_by_a_broken_one_stops_nothing(runner: Deployment) -> None:
    runner.platform.upload("same.zip", zipped({"main.py": TICKER}))
    await runner.platform.create_bot("same-key", {"v": 1}, key="same.zip")
    before = await eventually(lambda: runner.running_with("same-key", "tick"))
    runner.platform.upload("same.zip", b"PK\x03\x04 this is no archive")

    await runner.platform.update_bot("same-key", {"v": 1}, key="same.zip")
    await eventually(lambda: is_rejected_as(runner, "same-key", "archive"))

    assert before is not None
    assert [container["Id"] for container in await runner.containers("same-key")] == [before["Id"]]


async def test_good_version_after_a_bad_one_runs(runner: Deployment) -> None:
    await runner.platform.create_bot("mended", {"v": 1}, key="ticker.zip")
    await eventually(lambda: runner.running_with("mended", "tick"))
    await runner.platform.update_bot("mended", TOO_MUCH, key="ticker.zip")
    await eventually(lambda: is_rejected_as(runner, "mended", "limits"))

    await runner.platform.update_bot("mended", {"v": 3}, key="ticker.zip")

    assert await eventually(lambda: runner.running_with("mended", "version 3"))
    assert await eventually(lambda: says_nothing(runner, "mended"))


async def says_nothing(runner: Deployment, bot_id: str) -> bool:
    now = await status(runner, bot_id)
    return (now.get("state"), now.get("detail"), now.get("rejection")) == ("running", "", None)


async def test_version_that_crashes_is_rolled_back_when_its_config_asks_for_it(runner: Deployment) -> None:
    await runner.platform.create_bot("careful", {"v": 1}, key="ticker.zip", version="1.0.0")
    await eventually(lambda: runner.running_with("careful", "tick"))

    await runner.platform.update_bot("careful", {"v": 2, "rollback": True}, key="crasher.zip", version="2.0.0")

    await eventually(lambda: is_rejected_as(runner, "careful", "unhealthy"))
    assert await eventually(lambda: runner.running_with("careful", "version 1\n"))
    detail = (await status(runner, "careful"))["detail"]
    assert "no funds" in detail
    assert detail.endswith("; version 1.0.0 keeps running")


async def test_version_that_crashes_is_not_rolled_back_without_that(runner: Deployment) -> None:
    await runner.platform.create_bot("bold", {"v": 1}, key="ticker.zip")
    await eventually(lambda: runner.running_with("bold", "tick"))

    await runner.platform.update_bot("bold", {"v": 2}, key="crasher.zip")

    async def died_twice() -> bool:
        now = await status(runner, "bold")
        return now.get("state") == "backing-off" and now.get("restarts", 0) >= 2

    assert await eventually(died_twice)
    document = await runner.document("bold")
    assert document is not None
    assert (await status(runner, "bold"))["rejection"] is None
    assert document["release"]["current"]["revision"] == document["revision"]


async def test_disabling_and_deleting_act_at_once_though_the_newest_version_is_rejected(runner: Deployment) -> None:
    for bot_id in ("off", "gone"):
        await runner.platform.create_bot(bot_id, {"v": 1}, key="ticker.zip")
        await eventually(partial(runner.running_with, bot_id, "tick"))
        await runner.platform.update_bot(bot_id, {"v": 2}, key="absent.zip")
        await eventually(partial(is_rejected_as, runner, bot_id, "code-missing"))

    await runner.platform.update_bot("off", {"v": 2, "enabled": False}, key="absent.zip")
    await runner.platform.delete_bot("gone")

    assert await eventually(lambda: runner.in_state("off", "disabled"))

    async def nothing_runs() -> bool:
        return not await runner.containers("off") and not await runner.containers("gone")

    assert await eventually(nothing_runs)


@pytest.mark.parametrize("reason", ["limits", "archive"])
async def test_next_worker_runs_version_before_while_newest_is_rejected(
    tmp_path: Path, docker_engine: Engine, reason: str
) -> None:
    async with deployment(tmp_path, docker_engine) as runner:
        upload(runner)
        await runner.start(workers=1)
        await runner.platform.create_bot("moved", {"v": 1}, key="ticker.zip")
        before = await eventually(lambda: runner.running_with("moved", "tick"))
        config, description = BAD_DEPLOYS[reason]
        await runner.platform.update_bot("moved", config, **{"key": "ticker.zip", **description})
        await eventually(lambda: is_rejected_as(runner, "moved", reason))

        async with overlap_watch(docker_engine, await runner.scope()) as watch:
            await runner.processes["w1"].process.stop(60.0)
            await eventually(lambda: no_container(runner, "moved"))
            runner.start_process("worker", "w2")
            after = await eventually(lambda: runner.running_with("moved", "version 1\n"))

            assert watch.overlaps == []
        assert before is not None
        assert after is not None
        assert after["Id"] != before["Id"]
        await eventually(lambda: is_rejected_as(runner, "moved", reason))


async def no_container(runner: Deployment, bot_id: str) -> bool:
    return not await runner.containers(bot_id)


def bot_folder(folder: Path, code: str, version: str) -> str:
    """A bot's folder as a person has it."""
    folder.mkdir(exist_ok=True)
    (folder / "main.py").write_text(code)
    (folder / "bot.json").write_text(json.dumps({"version": version}))
    return str(folder)


async def test_deploy_command_waits_until_the_bot_was_healthy_for_its_window(
    runner: Deployment, tmp_path: Path
) -> None:
    folder = bot_folder(tmp_path / "bot", TICKER, "1.0.0")

    done = await runner.terminal().succeed("bot", "deploy", folder, "--id", "by-hand", "--wait", "2")

    assert "by-hand 1.0.0 is created, and running, healthy for 2 s, on w1" in done.out


async def test_deploy_command_fails_with_the_traceback_and_brings_the_old_version_back(
    runner: Deployment, tmp_path: Path
) -> None:
    terminal = runner.terminal()
    await terminal.succeed("bot", "deploy", bot_folder(tmp_path / "bot", TICKER, "1.0.0"), "--id", "saved")

    done = await terminal.run("bot", "deploy", bot_folder(tmp_path / "bot", CRASHER, "2.0.0"), "--id", "saved")

    assert done.code == 1, done
    assert "(unhealthy)" in done.err
    assert 'raise ValueError("no funds")' in done.err
    assert "version 1.0.0 was restored" in done.err
    assert await eventually(lambda: runner.running_with("saved", "tick"))
    assert await rejected_as(runner, "saved") == "unhealthy"


async def test_deploy_command_leaves_a_failing_version_in_place_when_a_rollback_is_refused(
    runner: Deployment, tmp_path: Path
) -> None:
    terminal = runner.terminal()
    await terminal.succeed("bot", "deploy", bot_folder(tmp_path / "bot", TICKER, "1.0.0"), "--id", "forced")

    crasher = bot_folder(tmp_path / "bot", CRASHER, "2.0.0")
    done = await terminal.run("bot", "deploy", crasher, "--id", "forced", "--no-rollback")

    assert done.code == 1, done
    assert "no funds" in done.err
    document = await runner.document("forced")
    assert document is not None
    assert document["release"]["current"]["revision"] == document["revision"]


async def test_deploy_of_rejected_version_fails_and_names_running_version(runner: Deployment, tmp_path: Path) -> None:
    terminal = runner.terminal()
    folder = bot_folder(tmp_path / "bot", TICKER, "1.0.0")
    await terminal.succeed("bot", "deploy", folder, "--id", "kept")
    before = await eventually(lambda: runner.running_with("kept", "tick"))

    config = json.dumps({"resources": {"memoryMb": 10**7}})
    bot_folder(tmp_path / "bot", TICKER, "2.0.0")
    done = await terminal.run("bot", "deploy", folder, "--id", "kept", "--config", config)

    assert done.code == 1, done
    assert "(limits)" in done.err
    assert "version 1.0.0 keeps running" in done.err
    assert before is not None
    assert [container["Id"] for container in await runner.containers("kept")] == [before["Id"]]
