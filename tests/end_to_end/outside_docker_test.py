"""A service's HTTP API, compared with its own description, with hostile ids."""

import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
import pytest_asyncio

from libs.core.api.paths import DESCRIPTION, PREFIX, encoded
from libs.core.process.service import BOT_RUNNER
from tests.support.eventually import eventually
from tests.support.rigs.status_rig import ALL, EVIL, FAILING, SECRET, TICKER, Outside, operation_path, outside
from tools.cli.connections import Target, connected
from tools.cli.live_output import EntityOutput
from tools.engine.ensure import Engine

OF_MASTER = [
    "/status",
    "/summary",
    "/workers",
    "/workers?role=owning&limit=1",
    "/segments",
    "/segments?state=owned&after=0",
    "/entities",
    "/entities?state=running&segment=1&prefix=tick&limit=1",
    f"/entities/{TICKER}",
    f"/entities/{TICKER}/metrics",
    "/runs",
    "/runs?failed=true&entity=failing&limit=1",
    "/runs?before=2020-01-01T00:00:00Z",
    "/audit",
    "/audit?entity=nobody&who=ann&action=killed&limit=1",
]
OF_WORKER = ["/status"]
GUARDED = [f"/entities/{TICKER}/logs", f"/entities/{TICKER}/usage"]
REFUSED = [
    ("/entities?limit=0", 400, "limit"),
    ("/entities?colour=red", 400, "colour"),
    ("/entities?limit=1&limit=2", 400, "limit"),
    ("/segments?after=x", 400, "after"),
    ("/workers?role=boss", 400, "role"),
    ("/runs?before=soon", 400, "before"),
    ("/audit?action=forged", 400, "action"),
    ("/entities/nobody", 404, "nobody"),
    ("/entities/nobody/logs", 404, "no output"),
    ("/entities/nobody/metrics", 404, "nobody"),
    (f"/entities/{TICKER}/logs?tail=-1", 400, "tail"),
    (f"/entities/{TICKER}/logs?follow=perhaps", 400, "follow"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def seen(tmp_path_factory: pytest.TempPathFactory, docker_engine: Engine) -> AsyncIterator[Outside]:
    async with outside(tmp_path_factory.mktemp("outside"), docker_engine) as made:
        yield made


@pytest.mark.parametrize(
    ("process", "path"), [*(("master", path) for path in OF_MASTER), *(("w1", path) for path in OF_WORKER)]
)
async def test_an_answer_is_as_described(seen: Outside, process: str, path: str) -> None:
    status, body = await seen.checked(process, f"{PREFIX}{path}")

    assert status == 200, body


@pytest.mark.parametrize(("path", "status", "told"), REFUSED)
async def test_refusal_conforms_to_description_and_names_cause(
    seen: Outside, path: str, status: int, told: str
) -> None:
    found, body = await seen.checked("master", f"{PREFIX}{path}")

    assert (found, told in body["error"]) == (status, True), body


@pytest.mark.parametrize(("process", "tried"), [("master", OF_MASTER), ("w1", [*OF_WORKER, *GUARDED])])
async def test_description_lists_exactly_the_tested_operations(seen: Outside, process: str, tried: list[str]) -> None:
    _, described = await seen.get(process, DESCRIPTION)

    logs = f"{PREFIX}/entities/{{id}}/logs"
    assert set(described["paths"]) == {operation_path(f"{PREFIX}{path}") for path in tried} | {logs, DESCRIPTION}


@pytest.mark.parametrize("entity_id", ALL, ids=range(len(ALL)))
async def test_any_id_has_a_path(seen: Outside, entity_id: str) -> None:
    status, body = await seen.checked("master", f"{PREFIX}/entities/{encoded(entity_id)}")
    log, _ = await seen.text("master", seen.logs_path(entity_id, "tail=1"))
    page, text = await seen.text("master", f"/entity?id={encoded(entity_id)}")

    assert (status, body.get("id"), log, page) == (200, entity_id, 200, 200)
    assert "<script>document" not in text
    assert "<img src=x" not in text


async def test_metrics_of_a_bot_are_answered_and_on_its_page(seen: Outside) -> None:
    path = f"{PREFIX}/entities/{encoded(EVIL)}/metrics"

    async def is_stored() -> bool:
        return bool((await seen.checked("standby", path))[1].get("metrics"))

    await eventually(is_stored)
    _, body = await seen.checked("master", path)
    _, page = await seen.text("master", f"/entity?id={encoded(EVIL)}")

    [metric] = body["metrics"]
    assert (body["id"], body["left_out"]) == (EVIL, False)
    assert (metric["name"], metric["value"], metric["texts"]) == ("<b>pnl</b>", 12.5, {"symbol": "<script>"})
    assert {point["value"] for point in metric["points"]} == {12.5}
    assert "&lt;b&gt;pnl&lt;/b&gt;" in page
    assert "<polyline" in page


async def test_api_hides_config(seen: Outside) -> None:
    for path in [*(f"{PREFIX}{path}" for path in OF_MASTER), "/", "/entities", f"/entity?id={TICKER}", "/runs"]:
        status, text = await seen.text("master", path)
        assert (status, SECRET in text) == (200, False), path


async def test_failures_are_found_with_their_last_output(seen: Outside) -> None:
    _, body = await seen.get("master", f"{PREFIX}/runs?failed=true&limit=1")

    [run] = body["runs"]
    assert (run["entity_id"], run["reason"], run["failed"], run["exit_code"]) == (FAILING, "error", True, 1)
    assert any("no <i>funds</i>" in line for line in run["last_lines"])
    assert "config_digest" not in run


@pytest.mark.parametrize("path", ["/workers", "/segments", "/summary", f"/entities/{TICKER}"])
async def test_standby_master_answers_with_what_only_the_leader_knows(seen: Outside, path: str) -> None:
    async def answered() -> bool:
        status, body = await seen.checked("standby", f"{PREFIX}{path}")
        return status == 200 and body.get("leads", True)

    # A master that has just started does not know the leader yet.
    await eventually(answered)


@pytest.mark.parametrize("path", GUARDED)
async def test_worker_refuses_output_and_usage_without_token(seen: Outside, path: str) -> None:
    status, body = await seen.checked("w1", f"{PREFIX}{path}")
    async with seen.session.get(seen.url("w1", f"{PREFIX}{path}"), headers={"Authorization": "Bearer guess"}) as answer:
        assert (status, answer.status) == (401, 401)
    assert "token" in body["error"]


@pytest.mark.parametrize("process", ["w1", "master", "standby"])
@pytest.mark.parametrize("entity_id", [TICKER, EVIL], ids=["plain", "hostile"])
async def test_output_comes_from_any_process_within_a_second_of_its_writing(
    seen: Outside, process: str, entity_id: str
) -> None:
    late: list[float] = []
    worker = await seen.deployment.mongo["bot_runner"]["processes"].find_one({"role": "worker"}) or {}
    token = {"Authorization": f"Bearer {worker['token']}"}
    path = seen.logs_path(entity_id, "tail=0&follow=true")
    async with seen.session.get(seen.url(process, path), headers=token) as answer:
        assert (answer.status, answer.headers["Log-Source"]) == (200, "worker")
        while len(late) < 5 or (min(late) >= 1.0 and len(late) < 200):
            line = await answer.content.readline()
            if line.startswith(b"tick "):
                late.append(time.time() - float(line.split()[2]))

    # The machine may be busy with other tests, but not each time.
    assert min(late) < 1.0, late


async def test_log_follows_a_bot_through_a_change_of_its_worker(seen: Outside) -> None:
    made = seen.deployment
    where = Target({"MONGO_URI": made.mongod.uri}, "the test")
    # It shares no folder with the first one, so that the bot starts again.
    apart = {"KEEPALIVE_DIR": f"{made.folder}/keepalive-apart", "TEMP_DIR": f"{made.folder}/temp-apart"}
    numbers: list[int] = []
    told: list[str] = []
    async with connected(where) as servers:
        reading = EntityOutput(servers, BOT_RUNNER, TICKER, told.append).lines(5, follow=True)
        async with aclosing(reading):
            async for line in reading:
                if line.startswith("tick "):
                    numbers.append(int(line.split()[1]))
                if len(numbers) == 15 and "w2" not in made.processes:
                    await made.start_process("worker", "w2", **apart).wait_ready()
                    await made.processes["w1"].process.stop(40)
                if 0 in numbers and len(numbers) > numbers.index(0) + 3:
                    break

    begun_again = numbers.index(0)
    assert numbers[:begun_again] == list(range(numbers[0], numbers[0] + begun_again))
    assert numbers[begun_again:] == list(range(len(numbers) - begun_again))
    assert told == []


async def test_outage_of_mongodb_is_answered_with_503_soon(seen: Outside) -> None:
    seen.deployment.mongod.pause()
    try:
        begun = time.monotonic()
        status, body = await seen.checked("standby", f"{PREFIX}/entities")
        page, text = await seen.text("standby", "/entities")
        overview, known = await seen.text("standby", "/")
    finally:
        seen.deployment.mongod.resume()

    assert (status, page, overview) == (503, 503, 200)
    assert "MongoDB" in known
    assert "MongoDB" in body["error"]
    assert "MongoDB" in text
    assert time.monotonic() - begun < 45
