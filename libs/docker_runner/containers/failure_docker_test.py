"""What containers say about bots that fail, and what bots find in them, in the images that bots run in."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from libs.core.room import MIB
from libs.docker_runner.containers.container import EndReason
from libs.docker_runner.containers.failure import FailureReason
from libs.docker_runner.executable import Limits, Network
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tools.engine.ensure import Engine


@pytest_asyncio.fixture(loop_scope="session")
async def bots(tmp_path: Path, scope: str, docker_engine: Engine) -> AsyncIterator[BotContainers]:
    # Nothing here has to do with networks, and without one a start is quicker.
    async with bot_containers(tmp_path, scope, docker_engine.url, network=Network.NONE) as bots:
        yield bots


FOREIGN = {"vendor/fast/__init__.py": "from . import _c", "vendor/fast/_c.cpython-312-x86_64-linux-gnu.so": ""}
DAMAGED = {"node_modules/fast/fast.node": "compiled elsewhere"}


@pytest.mark.parametrize(
    ("runtime", "source", "files", "error_type", "command"),
    [
        ("python3.11", "import ccxt", {}, "ModuleNotFoundError", "pip install --target vendor ccxt"),
        ("python3.11", "import fast", FOREIGN, "ImportError", "--python-version 3.11 --only-binary=:all: fast"),
        ("nodejs20", "require('axios')", {}, "Error", "npm install axios"),
        ("nodejs20", "require('fast/fast.node')", DAMAGED, "Error", "node:20-alpine npm install"),
    ],
)
async def test_module_that_cannot_be_loaded_is_reported_with_the_fixing_command(
    bots: BotContainers, runtime: str, source: str, files: Mapping[str, str], error_type: str, command: str
) -> None:
    outcome, text = await bots.run(source, runtime=runtime, files=files)

    assert outcome.ended.reason is EndReason.ERROR
    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.failure.type) == (FailureReason.EXCEPTION, error_type)
    assert command in outcome.failure.hint
    assert f"hint: {outcome.failure.hint}" in text


async def test_full_node_heap_is_reported_with_its_limit_and_setting(bots: BotContainers) -> None:
    source = "exports.main = () => { const found = []; for (;;) found.push({ a: [found.length] }) }"
    outcome, _ = await bots.run(source, runtime="nodejs20", limits=Limits(memory_bytes=512 * MIB))

    assert (outcome.ended.reason, outcome.ended.exit_code) == (EndReason.ERROR, 134)
    assert outcome.failure is not None
    assert outcome.failure.reason is FailureReason.HEAP_FULL
    assert "MiB that Node has for its heap" in outcome.failure.message
    assert outcome.failure.hint == "raise config.resources.memoryMb or MEMORY_LIMIT_MB"


async def test_an_abort_for_another_reason_is_an_exit_code(bots: BotContainers) -> None:
    outcome, _ = await bots.run("exports.main = () => process.abort()", runtime="nodejs20")

    assert outcome.ended.exit_code == 134
    assert outcome.failure is not None
    assert outcome.failure.reason is FailureReason.EXIT_CODE


async def test_main_with_a_wrong_signature_is_reported_with_the_right_one(bots: BotContainers) -> None:
    outcome, text = await bots.run("def main(id): return 1")

    assert outcome.failure is not None
    assert outcome.failure.reason is FailureReason.SIGNATURE
    assert "write main(id, config)" in outcome.failure.message
    assert "write main(id, config)" in text


async def test_a_main_without_parameters_finds_id_and_config_and_logs_at_info(bots: BotContainers) -> None:
    source = """
import json, logging, os
logging.getLogger("my.bot").info("at work")
def main():
    return [os.environ["ID"], json.loads(os.environ["CONFIG"])]
"""
    outcome, text = await bots.run(source, config={"x": 1})

    assert outcome.result == ["b1", {"x": 1}]
    # On two streams, whose order among each other nothing keeps.
    assert sorted(text.splitlines()) == ["INFO:my.bot:at work", '["b1", {"x": 1}]']


async def test_an_entrypoint_for_node_may_lack_its_suffix(bots: BotContainers) -> None:
    source = "export default (id, config) => [process.env.ID, config, process.env.CONFIG]"
    executable = bots.executable(source, runtime="nodejs20", script="index.mjs", config={"x": 1})
    named = replace(executable, script="index")

    outcome = await bots.outcome(named, 240.0)
    result = outcome.result
    outcome.discard()

    assert result == ["b1", {"x": 1}, '{"x":1}']
