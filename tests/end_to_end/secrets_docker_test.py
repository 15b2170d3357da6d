"""Secrets of bots: who gets them, and that their values are nowhere but in the bot's processes and its spec."""

import base64
import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

import docker
import pytest
import pytest_asyncio

from libs.core.process.service import BACKTEST_RUNNER
from libs.core.secrets.sealing import new_private_key, public_key_of, seal
from tests.support.eventually import eventually
from tests.support.rigs.backtests import listening
from tests.support.rigs.deployment import PATIENT, Deployment, deployment
from tests.support.rigs.platform import zipped
from tests.support.servers.trace_collector import TraceCollector, trace_collector
from tools.engine.ensure import Engine

# Other runs of this test on the machine have other ones: all processes are searched.
_RUN = token_hex(4)
SECRET, SEALED, SHARED = f"k3y-Of-Ann-{_RUN}", f"s3aled-Of-Ann-{_RUN}", f"sh4red-Feed-{_RUN}"
# Prints what it has, once within a line and once across two pieces of the engine's log, which are 16 KiB each.
CHATTY = """
import base64, sys, time

def main(id, config):
    for value in (config["keys"][0]["secret"], config["sealed"], config["feed"]):
        print("plain", value, len(value), flush=True)
        print("base64", base64.b64encode(value.encode()).decode(), flush=True)
        sys.stdout.write("x" * (16 * 1024 - 4) + value + "\\n")
        print("error", value, file=sys.stderr, flush=True)
    print("all printed", flush=True)
    if config.get("ends"):
        return {"metrics": {"got": config["keys"][0]["secret"]}, "long": [config["sealed"]] * 20000}
    while True:
        time.sleep(0.1)
"""
FORMS = [form for value in (SECRET, SEALED, SHARED) for form in (value.encode(), base64.b64encode(value.encode())[:16])]


def settings(folder: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """The settings of workers with secrets, and a config that refers to them."""
    (folder / "secrets" / "ann").mkdir(parents=True)
    (folder / "secrets" / "ann" / "exchange").write_text(f"{SECRET}\n")
    key = new_private_key()
    (folder / "private").write_text(f"{new_private_key()}\n{key}\n")
    config = {
        "keys": [{"secret": {"$secret": "exchange"}}],
        "sealed": {"$sealed": seal(SEALED, "ann", public_key_of(key))},
        "feed": {"$secret": "feed"},
    }
    given = {
        "SECRETS_DIR": str(folder / "secrets"),
        "SECRETS_ALLOW": "feed=*",
        "THE0_SECRET_feed": SHARED,
        "SECRETS_KEY_FILE": str(folder / "private"),
    }
    return given, config


@dataclass(frozen=True)
class Stage:
    """A deployment with a master and a worker, and a config for bots of the owner `ann`."""

    runner: Deployment
    config: dict[str, Any]
    collector: TraceCollector

    async def all_printed(self, bot_id: str) -> dict[str, Any]:
        """The bot's container, once it has printed all values."""
        container = await eventually(lambda: self.runner.running_with(bot_id, "all printed"), within_seconds=120)
        return dict(container)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stage(tmp_path_factory: pytest.TempPathFactory, docker_engine: Engine) -> AsyncIterator[Stage]:
    """Shared by the tests of bots; the last one ends the worker."""
    given, config = settings(tmp_path_factory.mktemp("operator"))
    async with (
        trace_collector() as collector,
        deployment(tmp_path_factory.mktemp("secrets"), docker_engine, settings=collector.settings) as made,
    ):
        made.platform.upload("chatty.zip", zipped({"main.py": CHATTY}))
        master = made.start_process("master", "master", **PATIENT)
        worker = made.start_process("worker", "w1", **PATIENT, **given)
        for process in (master, worker):
            await process.wait_ready()
        yield Stage(made, config, collector)


def files_with_a_value(folder: Path, *besides: Path) -> list[str]:
    """The files below *folder* that contain a value of a secret."""
    found = []
    for directory, _, names in os.walk(folder):
        for path in (Path(directory) / name for name in names):
            if path.is_file() and not any(path.is_relative_to(other) for other in besides):
                try:
                    content = path.read_bytes()
                except OSError:
                    continue
                if any(form in content for form in FORMS):
                    found.append(str(path))
    return found


def processes_with_a_value() -> Iterator[str]:
    """The processes, but the worker and bots, whose environment or command line contains a value of a secret."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = (Path("/proc") / pid / "cmdline").read_bytes()
            environment = (Path("/proc") / pid / "environ").read_bytes()
        except OSError:
            continue
        # The worker has the shared one by the operator's own variable, and a bot has its config.
        is_known = b"--worker-id\0w1" in command or b"BOT_CONFIG=" in environment
        if any(form in command for form in FORMS) or (not is_known and any(form in environment for form in FORMS)):
            yield f"{pid} {command!r}"


def inspected(made: Deployment, container_id: str) -> bytes:
    """What the engine tells about a container."""
    client = docker.DockerClient(base_url=made.engine.url, timeout=60)
    try:
        return json.dumps(client.api.inspect_container(container_id)).encode()
    finally:
        client.close()


async def test_unknown_and_foreign_secrets_are_refused_with_a_reason(stage: Stage) -> None:
    runner, config = stage.runner, stage.config
    await runner.platform.create_bot("good", config, key="chatty.zip", author="ann")
    await stage.all_printed("good")
    await runner.platform.create_bot("eve", config, key="chatty.zip", author="eve")
    await runner.platform.update_bot("good", {**config, "feed": {"$secret": "none"}}, key="chatty.zip", author="ann")

    async def rejection(bot_id: str) -> dict[str, Any]:
        document = await runner.document(bot_id) or {}
        return dict(document.get("status", {}).get("rejection") or {})

    await eventually(lambda: rejection("eve"), within_seconds=60)
    await eventually(lambda: rejection("good"), within_seconds=60)

    assert (await rejection("eve"))["reason"] == "secret"
    assert "'exchange' does not exist, or bots of owner 'eve' may not use it" in (await rejection("eve"))["detail"]
    assert await runner.state("eve") == "rejected"
    assert (await rejection("good"))["reason"] == "secret"
    assert await runner.in_state("good", "running")
    for bot_id in ("good", "eve"):
        await runner.platform.delete_bot(bot_id)
    await eventually(lambda: files_with_a_value(runner.folder / "specs") == [], within_seconds=120)


async def test_spec_of_a_bot_that_ended_is_removed_while_the_database_is_away(stage: Stage) -> None:
    runner, specs = stage.runner, stage.runner.folder / "specs"
    await runner.platform.create_bot("b", stage.config, key="chatty.zip", author="ann")
    container = await stage.all_printed("b")
    assert files_with_a_value(specs) != []
    runner.mongod.pause()
    try:
        client = docker.DockerClient(base_url=runner.engine.url, timeout=60)
        client.api.kill(container["Id"])
        client.close()

        await eventually(lambda: files_with_a_value(specs) == [], within_seconds=20)
    finally:
        runner.mongod.resume()
    await runner.platform.delete_bot("b")


async def test_values_reach_the_bot_and_nothing_else_and_are_gone_after_its_end(stage: Stage) -> None:
    runner, specs = stage.runner, stage.runner.folder / "specs"
    await runner.platform.create_bot("c", stage.config, key="chatty.zip", author="ann")
    container = await stage.all_printed("c")
    raw = runner.output(container)
    assert all(f"plain {value} {len(value)}" in raw for value in (SECRET, SEALED, SHARED))

    shown = ""
    terminal = runner.terminal()

    async def logged() -> bool:
        nonlocal shown
        shown = (await terminal.run("bot", "logs", "c")).out
        return "all printed" in shown

    await eventually(logged, within_seconds=120)
    assert shown.count("plain ***") == 3
    assert not any(form.decode() in shown for form in FORMS)
    assert files_with_a_value(specs) != []
    assert specs.stat().st_mode & 0o777 == 0o700
    assert not any(form in inspected(runner, container["Id"]) for form in FORMS)
    assert list(processes_with_a_value()) == []

    await runner.platform.delete_bot("c")
    await eventually(lambda: files_with_a_value(specs) == [], within_seconds=120)
    await runner.processes["w1"].process.stop()

    # Databases, the stream, objects, spools, logs of processes: everything below the folder.
    assert files_with_a_value(runner.folder) == []
    await eventually(lambda: traces_of({"process the0.bot.created", "start container"}, stage.collector))


def traces_of(names: set[str], collector: TraceCollector) -> bool:
    """Whether spans of these *names* have arrived; no span has a value of a secret."""
    assert not any(form in collector.received for form in FORMS)
    return {span.name for span in collector.spans} >= names


async def test_values_are_masked_in_the_result_and_the_output_of_a_backtest(
    tmp_path: Path, docker_engine: Engine
) -> None:
    given, config = settings(tmp_path)
    async with (
        trace_collector() as collector,
        deployment(
            tmp_path / "deployment", docker_engine, service=BACKTEST_RUNNER, settings=collector.settings
        ) as made,
        listening(made) as backtests,
    ):
        await made.start(workers=1, **PATIENT, **given)
        backtests.upload("chatty.zip", CHATTY)

        for author in ("ann", "eve"):
            await backtests.create(author, {**config, "ends": True}, key="chatty.zip", author=author)
        events = [await backtests.done(author) for author in ("ann", "eve")]

        assert [event["success"] for event in events] == [True, False]
        assert backtests.analysis("ann")["metrics"] == {"got": "*" * len(SECRET)}
        assert "all printed" in backtests.logs("ann")
        assert "may not use it" in json.dumps(backtests.analysis("eve"))
        stored = json.dumps(backtests.analysis("ann")) + backtests.logs("ann")
        assert not any(form.decode() in stored for form in FORMS)
        # The root of a trace is sent last.
        await eventually(lambda: traces_of({"process the0.backtest.created", "hand over backtest"}, collector))
