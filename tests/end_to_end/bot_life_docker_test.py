"""A bot's life as its owner sees it: announced, changed, given new code, switched off, deleted; and what goes wrong."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.eventually import eventually
from tests.support.rigs.deployment import PATIENT, Deployment, deployment
from tests.support.rigs.platform import zipped
from tools.engine.ensure import Engine

TICKER = """
import json, time

def main(id, config):
    print("id", json.dumps(id), flush=True)
    print("config", json.dumps(config, sort_keys=True), flush=True)
    while True:
        time.sleep(0.1)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def runner(tmp_path_factory: pytest.TempPathFactory, docker_engine: Engine) -> AsyncIterator[Deployment]:
    """A master and one worker, shared by the tests of this file."""
    one_segment = {**PATIENT, "MAX_BOTS_PER_PARTITION": "100"}
    async with deployment(tmp_path_factory.mktemp("bot-life"), docker_engine, settings=one_segment) as made:
        await made.start(workers=1)
        made.platform.upload("ticker.zip", zipped({"main.py": TICKER}))
        yield made


async def test_an_announced_bot_runs_with_its_config(runner: Deployment) -> None:
    await runner.platform.create_bot("first", {"symbol": "BTC"}, key="ticker.zip")

    assert await eventually(lambda: runner.running_with("first", '{"symbol": "BTC"}'))
    assert await eventually(lambda: runner.in_state("first", "running"))


async def test_a_changed_config_restarts_the_bot_with_the_new_value(runner: Deployment) -> None:
    await runner.platform.create_bot("changed", {"limit": 1}, key="ticker.zip")
    before = await eventually(lambda: runner.running_with("changed", '{"limit": 1}'))

    await runner.platform.update_bot("changed", {"limit": 2}, key="ticker.zip")

    after = await eventually(lambda: runner.running_with("changed", '{"limit": 2}'))
    assert after["Id"] != before["Id"]


async def test_a_new_version_of_the_code_restarts_the_bot_though_its_config_is_the_same(runner: Deployment) -> None:
    runner.platform.upload("v1.zip", zipped({"main.py": TICKER.replace('"id"', '"code one"')}))
    runner.platform.upload("v2.zip", zipped({"main.py": TICKER.replace('"id"', '"code two"')}))
    await runner.platform.create_bot("versioned", {}, key="v1.zip", version="1.0.0")
    await eventually(lambda: runner.running_with("versioned", "code one"))

    await runner.platform.update_bot("versioned", {}, key="v2.zip", version="1.0.1")

    assert await eventually(lambda: runner.running_with("versioned", "code two"))


async def test_a_disabled_bot_stops_and_an_enabled_one_runs_again(runner: Deployment) -> None:
    await runner.platform.create_bot("switched", {}, key="ticker.zip")
    await eventually(lambda: runner.running_with("switched", "config"))

    await runner.platform.update_bot("switched", {"enabled": False}, key="ticker.zip")
    assert await eventually(lambda: runner.in_state("switched", "disabled"))
    assert await runner.containers("switched") == []

    await runner.platform.update_bot("switched", {"enabled": True}, key="ticker.zip")
    assert await eventually(lambda: runner.running_with("switched", "config"))


async def test_a_deleted_bots_container_goes(runner: Deployment) -> None:
    await runner.platform.create_bot("deleted", {}, key="ticker.zip")
    await eventually(lambda: runner.running_with("deleted", "config"))

    await runner.platform.delete_bot("deleted")

    async def gone() -> bool:
        return await runner.document("deleted") is None and await runner.containers("deleted") == []

    assert await eventually(gone)


@pytest.mark.parametrize(
    "bot_id", ["../x", "a/b", "spaces and \N{ROCKET} emoji", "x" * 300, "quote'\"$(id)\nline"], ids=range(5)
)
async def test_any_string_is_an_id(runner: Deployment, bot_id: str) -> None:
    await runner.platform.create_bot(
        bot_id, {"text": 'it\'s "quoted" $HOME\nnext line \N{EURO SIGN}'}, key="ticker.zip"
    )

    container = await eventually(lambda: runner.running_with(bot_id, "config"))

    assert 'it\'s \\"quoted\\" $HOME\\nnext line \\u20ac' in runner.output(container)
    await runner.platform.delete_bot(bot_id)


async def test_unknown_runtime_is_in_bot_status(runner: Deployment) -> None:
    await runner.platform.create_bot("cobol", {}, key="ticker.zip", runtime="cobol60")

    detail = await eventually(lambda: rejection(runner, "cobol"))

    assert "cobol60" in detail
    assert "python3.11" in detail


async def test_missing_code_is_in_status_and_found_after_upload(runner: Deployment) -> None:
    await runner.platform.create_bot("codeless", {}, key="absent.zip")

    assert "absent.zip" in await eventually(lambda: rejection(runner, "codeless"))

    runner.platform.upload("absent.zip", zipped({"main.py": TICKER}))
    await runner.platform.update_bot("codeless", {}, key="absent.zip")
    assert await eventually(lambda: runner.running_with("codeless", "config"))


async def test_missing_entrypoint_file_is_in_status(runner: Deployment) -> None:
    await runner.platform.create_bot("lost", {}, key="ticker.zip", script="bot.py")

    assert "bot.py" in await eventually(lambda: rejection(runner, "lost"))


async def test_archive_escaping_its_folder_is_in_status_with_entry(runner: Deployment) -> None:
    runner.platform.upload("evil.zip", zipped({"main.py": TICKER, "../../outside.py": "x = 1"}))
    await runner.platform.create_bot("evil", {}, key="evil.zip")

    assert "../../outside.py" in await eventually(lambda: rejection(runner, "evil"))


async def test_repeatedly_failing_bot_backs_off_with_reason(runner: Deployment) -> None:
    runner.platform.upload(
        "dying.zip", zipped({"main.py": "def main(id, config):\n    raise ValueError('no funds')\n"})
    )
    await runner.platform.create_bot("dying", {}, key="dying.zip")

    async def detail_of_the_second_death() -> str:
        document = await runner.document("dying")
        status = document.get("status", {}) if document else {}
        died_twice = status.get("restarts", 0) >= 2 and status["state"] == "backing-off"
        return str(status["detail"]) if died_twice else ""

    detail = await eventually(detail_of_the_second_death)

    assert "exit code 1" in detail
    assert "ValueError: no funds" in detail


async def test_record_of_failed_run_has_typed_reason_and_hint(runner: Deployment) -> None:
    source = "def main(id, config):\n    import ccxt"
    runner.platform.upload("vendorless.zip", zipped({"main.py": source}))
    await runner.platform.create_bot("vendorless", {}, key="vendorless.zip")

    async def detail() -> str:
        document = await runner.document("vendorless")
        status = document.get("status", {}) if document else {}
        return str(status["detail"]) if status.get("state") == "backing-off" else ""

    told = await eventually(detail)
    record = await runner.mongo["bot_runner"]["runs"].find_one({"entity_id": "vendorless", "reason": "error"})

    assert "ModuleNotFoundError: No module named 'ccxt'; module 'ccxt' is not in the archive" in told
    assert "pip install --target vendor ccxt" in told
    assert record is not None
    assert (record["failure"], record["error_type"]) == ("exception", "ModuleNotFoundError")
    assert record["error_message"] == "No module named 'ccxt'"
    assert "pip install --target vendor ccxt" in record["hint"]


async def test_status_of_bot_out_of_memory_names_limit_and_setting(runner: Deployment) -> None:
    source = "def main(id, config):\n    found = []\n    while True:\n        found.append(bytearray(1 << 20))"
    runner.platform.upload("hog.zip", zipped({"main.py": source}))
    await runner.platform.create_bot("hog", {"resources": {"memoryMb": 64}}, key="hog.zip")

    async def detail() -> str:
        document = await runner.document("hog")
        status = document.get("status", {}) if document else {}
        return str(status["detail"]) if status.get("state") == "backing-off" else ""

    told = await eventually(detail)

    assert "used more than its 64 MiB; raise config.resources.memoryMb or MEMORY_LIMIT_MB" in told


async def rejection(runner: Deployment, bot_id: str) -> str:
    """Why a bot was rejected; empty while it was not."""
    document = await runner.document(bot_id)
    status = document.get("status", {}) if document else {}
    return str(status.get("detail", "")) if status.get("state") == "rejected" else ""
