"""The running dev overlay runs what the platform announces, elects a new leader, and scales its workers."""

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from libs.core.process.service import SERVICES
from libs.core.room import MIB
from tests.cluster.faults import kill_all_containers, kill_container, suspended_kubelet
from tests.cluster.layout import KUBECONFIG
from tests.cluster.overlays.cluster import OverlayCluster, configured
from tests.cluster.overlays.dev_runtime import MASTERS, NAMESPACE, BotContainer, DevRuntime, dev_runtime, is_ready
from tests.support.eventually import eventually
from tests.support.rigs.platform import zipped

pytestmark = pytest.mark.timeout(900)

LEADER_SECONDS = 8.0
CONNECTED_SECONDS = 5.0
LEADER_ATTEMPTS = 4
MASTER = "deployment/bot-runner-master"
WORKER = "deployment/bot-runner-worker"
NOT_PULLED = ("ErrImagePull", "ImagePullBackOff")
PATIENCE_SECONDS = 300.0
REPLACED_SECONDS = 90.0
"""Far more than the 10 s for which pods tolerate a lost node, and far less than Kubernetes' default of 300 s."""
LOST_NODE_SECONDS = 40.0
"""For the bots and the lead of a lost node, as seen by kubectl, which a busy machine makes slow."""
BACK_SECONDS = 15.0
"""For the bots of a lost node by their runs: their leases end after 5 s. 5.5 s were measured at a load of 41."""
BOTS = ("bot-a", "bot-b", "bot-c")
QUERY = """
import json, os
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"status": "ok", "data": {"path": self.path}}).encode())

HTTPServer(("127.0.0.1", int(os.environ["THE0_QUERY_PORT"])), Handler).serve_forever()
"""
BOT = """
import time

def main(id, config):
    while True:
        print("hello from", id, flush=True)
        time.sleep(1)
"""
HOG = """
import os, time

def main(id, config):
    print("waits", flush=True)
    while not os.path.exists("/tmp/go"):
        time.sleep(0.1)
    held = bytearray(200 * 1024 * 1024)
    time.sleep(600)
"""
BUSY = """
import os, time

def main(id, config):
    others = [start(config["seconds"]) for _ in range(config["processes"])]
    for pid in others:
        os.waitpid(pid, 0)
    print("idle", flush=True)
    while True:
        time.sleep(1)

def start(seconds):
    pid = os.fork()
    if pid == 0:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass
        os._exit(0)
    return pid
"""
BUSY_PROCESSES = 50
LAPSES = "runtime_lease_lapses_total"
BUSY_SECONDS = 20
"""Four times the life of a lease."""
ENGINE_MEMORY_MIB = 1536
"""Of the dev overlay; a bot's limit there is 256 MiB."""
SHOW_GROUPS = """
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    file=$(find /sys/fs/cgroup -path '*/bots/memory.max' | head -n 1); own=memory.max
else
    file=$(find /sys/fs/cgroup/memory -path '*/bots/memory.limit_in_bytes' | head -n 1); own=memory.limit_in_bytes
fi
bots=${file%/*}
weight=$(cat "$bots/cpu.weight" 2>/dev/null || cat "/sys/fs/cgroup/cpu${bots#/sys/fs/cgroup/memory}/cpu.shares")
scores=$(for pid in $(cat "$bots"/*/cgroup.procs | sort -n); do cat /proc/$pid/oom_score_adj; done | sort -un)
printf '{"file": "%s", "weight": %s, "bots": %s, "engine": %s, "scores": ["%s"]}' \
    "$file" "$weight" "$(cat "$file")" "$(cat "${bots%/*}/$own")" "$(echo $scores | sed 's/ /", "/g')"
"""
ONCE = """
def main(id, config):
    print("ran", id, flush=True)
    return {"metrics": {"trades": 7}, "plots": [], "tables": []}
"""

# In a worker's container, with the keys that it has.
REACHED = """
import io, json, pathlib, sys, pymongo
from minio import Minio
from minio.error import S3Error
from pymongo.errors import OperationFailure
folder = pathlib.Path("/var/run/secrets/connections")
key = {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}
reached = {"files": sorted(key), "databases": [], "written": [], "read": []}
for name in ("bot_runner", "backtest_runner", "bot_scheduler"):
    try:
        pymongo.MongoClient(key["mongo-uri"])[name]["partitions"].find_one()
        reached["databases"].append(name)
    except OperationFailure as error:
        assert error.code == 13, error
storage = Minio("s3:9000", key["s3-access-key"], key["s3-secret-key"], secure=False)
for bucket in ("bots", "logs", "results", "bot-state"):
    for action, call in (
        ("written", lambda: storage.put_object(bucket, "of-a-test", io.BytesIO(b"x"), 1)),
        ("read", lambda: storage.stat_object(bucket, "missing")),
    ):
        try:
            call()
            reached[action].append(bucket)
        except S3Error as error:
            if error.code == "NoSuchKey":
                reached[action].append(bucket)
            else:
                assert error.code == "AccessDenied", error
print(json.dumps(reached))
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def runtime(
    cluster: OverlayCluster, images: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[DevRuntime]:
    """The overlay, shared by the tests of this file."""
    async with dev_runtime(cluster, tmp_path_factory.mktemp("overlay")) as made:
        await asyncio.to_thread(made.platform.upload, "bot.zip", zipped({"main.py": BOT, "query.py": QUERY}))
        await asyncio.to_thread(made.platform.upload, "hog.zip", zipped({"main.py": HOG}))
        await asyncio.to_thread(made.platform.upload, "busy.zip", zipped({"main.py": BUSY}))
        await asyncio.to_thread(made.platform.upload, "once.zip", zipped({"main.py": ONCE}))
        yield made


async def test_running_overlay_applied_again_changes_nothing(runtime: DevRuntime) -> None:
    again = await runtime.cluster.apply(runtime.folder)

    assert configured(again) == []


@pytest.mark.parametrize(("service", "own"), [("bot-runner", "bot-state"), ("backtest-runner", "results")])
async def test_worker_reaches_the_database_and_the_buckets_of_its_role_alone(
    runtime: DevRuntime, service: str, own: str
) -> None:
    place = [f"--namespace={NAMESPACE}", "exec", f"deployment/{service}-worker", "--container=worker", "--"]

    reached = json.loads(await runtime.cluster.kubectl(*place, "/app/bin/python", "-P", "-c", REACHED))

    assert reached == {
        "files": ["mongo-uri", "nats-url", "s3-access-key", "s3-secret-key"],
        "databases": [service.replace("-", "_")],
        "written": [bucket for bucket in ("logs", "results", "bot-state") if bucket in ("logs", own)],
        "read": [bucket for bucket in ("bots", "logs", "results", "bot-state") if bucket in ("bots", "logs", own)],
    }


async def test_announced_bot_runs_on_a_worker_and_answers_queries_until_it_is_deleted(runtime: DevRuntime) -> None:
    payload = runtime.platform.payload("one-bot", {}, key="bot.zip")
    payload["custom"]["config"]["entrypoints"]["query"] = "query.py"
    await runtime.platform.publish("the0.bot.created", payload)

    async def says_hello() -> bool:
        found = await runtime.containers("bot-runner", "one-bot")
        return len(found) == 1 and "hello from one-bot" in await runtime.output(found[0])

    await eventually(says_hello, within_seconds=PATIENCE_SECONDS, every_seconds=1)
    answer = await runtime.query("bot-runner", "one-bot", "/status")
    await runtime.platform.delete_bot("one-bot")

    assert answer == {"status": "ok", "data": {"path": "/status"}}

    async def is_gone() -> bool:
        return not await runtime.containers("bot-runner", "one-bot")

    await eventually(is_gone, within_seconds=PATIENCE_SECONDS, every_seconds=1)


async def test_kernel_kills_a_bot_and_not_the_engine_when_all_bots_reach_their_limit(runtime: DevRuntime) -> None:
    await runtime.platform.create_bot("hog", {}, key="hog.zip")

    async def waits() -> list[BotContainer]:
        found = await runtime.containers("bot-runner", "hog")
        return found if len(found) == 1 and "waits" in await runtime.output(found[0]) else []

    (home,) = await eventually(waits, within_seconds=PATIENCE_SECONDS, every_seconds=1)
    groups = json.loads(await runtime.shell(home.pod, SHOW_GROUPS))
    assert groups["bots"] == ENGINE_MEMORY_MIB * MIB
    assert groups["engine"] >= groups["bots"] + 512 * MIB
    # A tenth of one process of the engine in version 1 of control groups, and of all of them in version 2.
    assert groups["weight"] in (102, 100)
    # Beside bots and their inits the group has the runtime's own helpers.
    assert {"999", "1000"} <= set(groups["scores"])

    # All bots together get less than the hog alone may use: the limit that is reached is the common one.
    await runtime.shell(home.pod, f"echo {100 * MIB} > {groups['file']}")
    try:
        await runtime.engine(home.pod, "exec", home.container, "touch", "/tmp/go")
        ended = await eventually(lambda: runtime.ended("bot-runner", "hog"), within_seconds=60, every_seconds=0.5)
    finally:
        await runtime.shell(home.pod, f"echo {groups['bots']} > {groups['file']}")
        await runtime.platform.delete_bot("hog")

    assert ended["reason"] == "oom"
    (pod,) = [pod for pod in await runtime.pods("bot-runner", "worker") if pod["metadata"]["name"] == home.pod]
    assert [status["restartCount"] for status in pod["status"]["initContainerStatuses"]] == [0]


async def test_busy_processes_of_a_bot_cost_no_lease_and_restart_no_container(runtime: DevRuntime) -> None:
    await eventually(lambda: ready_workers(runtime, 1), within_seconds=PATIENCE_SECONDS, every_seconds=1)
    before = await restarts(runtime)
    lapsed = await lapses(runtime)
    config = {"processes": BUSY_PROCESSES, "seconds": BUSY_SECONDS}
    await runtime.platform.create_bot("busy", config, key="busy.zip")

    async def was_busy() -> bool:
        found = await runtime.containers("bot-runner", "busy")
        return len(found) == 1 and "idle" in await runtime.output(found[0])

    await eventually(was_busy, within_seconds=PATIENCE_SECONDS, every_seconds=2)
    runs = await runtime.runs("bot-runner", "busy")

    # Workers of other tests may come and go meanwhile.
    assert increased(before, await restarts(runtime)) == []
    assert increased(lapsed, await lapses(runtime)) == []
    assert {run["reason"] for run in runs} <= {None, "stopped"}
    await runtime.platform.delete_bot("busy")


def increased(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    return [pod for pod, number in after.items() if number > before.get(pod, 0)]


async def restarts(runtime: DevRuntime) -> dict[str, int]:
    """Return how often the containers of each pod were restarted."""
    pods = await runtime.cluster.read("pods", f"--namespace={NAMESPACE}")
    return {
        pod["metadata"]["name"]: sum(
            status["restartCount"]
            for kind in ("containerStatuses", "initContainerStatuses")
            for status in pod["status"].get(kind, ())
        )
        for pod in pods
    }


async def lapses(runtime: DevRuntime) -> dict[str, float]:
    """Return how many leases each master and worker has lost."""
    pods = [
        (pod, role)
        for service in SERVICES
        for role in ("master", "worker")
        for pod in await runtime.pods(service.name, role)
    ]
    found = await asyncio.gather(*(runtime.metric(pod, role, LAPSES) for pod, role in pods))
    return {pod["metadata"]["name"]: number for (pod, _), number in zip(pods, found, strict=True)}


async def test_announced_backtest_leaves_its_result_its_output_and_an_event(runtime: DevRuntime) -> None:
    await runtime.platform.create_backtest("one-backtest", {}, key="once.zip")

    def events() -> list[dict[str, Any]]:
        return [event for event in runtime.completed if event["backtest_id"] == "one-backtest"]

    (event,) = await eventually(events, within_seconds=PATIENCE_SECONDS)
    assert event["success"] is True
    assert '"trades": 7' in await asyncio.to_thread(runtime.stored, "results", "one-backtest/analysis.json")
    assert "ran one-backtest" in await asyncio.to_thread(runtime.stored, "results", "one-backtest/logs.txt")


async def test_announced_schedule_runs_again_and_again(runtime: DevRuntime) -> None:
    payload = runtime.platform.payload("one-schedule", {"schedule": "*/5 * * * * *"}, key="once.zip")
    await runtime.platform.publish("the0.bot-schedule.created", payload)

    def ran_twice() -> bool:
        return runtime.stored("logs", "logs/one-schedule/").count("ran one-schedule") >= 2

    await eventually(lambda: asyncio.to_thread(ran_twice), within_seconds=PATIENCE_SECONDS, every_seconds=1)
    await runtime.platform.publish("the0.bot-schedule.deleted", {"id": "one-schedule", "config": {}})


async def delete(runtime: DevRuntime, leader: Any) -> None:
    """Delete a master as a rollout or a drain does."""
    place = f"--namespace={NAMESPACE}"
    await runtime.cluster.kubectl(place, "delete", "pod", leader["metadata"]["name"], "--wait=false")


async def kill(runtime: DevRuntime, leader: Any) -> None:
    """Kill a master as a crash does: its lease has to expire."""
    await kill_container(leader["spec"]["nodeName"], statuses(leader)[0]["containerID"])


@pytest.mark.parametrize("end", [delete, kill])
async def test_workers_are_connected_to_the_next_leader_soon_after_the_leaders_end(
    runtime: DevRuntime, end: Callable[[DevRuntime, Any], Awaitable[None]]
) -> None:
    if end is kill:
        skip_on_other_clusters(runtime)
    took: list[tuple[float, float]] = []
    while not (took and took[-1][0] <= LEADER_SECONDS and took[-1][1] <= CONNECTED_SECONDS):
        assert len(took) < LEADER_ATTEMPTS, took
        took.append(await seconds_to_next_leader(runtime, end))


async def seconds_to_next_leader(
    runtime: DevRuntime, end: Callable[[DevRuntime, Any], Awaitable[None]]
) -> tuple[float, float]:
    """End the leader; return the seconds until another one leads, and from then until all workers are connected."""
    leader = await eventually(lambda: settled(runtime), within_seconds=PATIENCE_SECONDS, every_seconds=0.5)
    workers = {pod["metadata"]["name"] for pod in await runtime.pods("bot-runner", "worker") if is_ready(pod)}
    begun = time.monotonic()
    await end(runtime, leader)

    async def another_leads() -> bool:
        # After a crash it may be the same pod, with another container.
        found = await runtime.leader("bot-runner")
        return found is not None and statuses(found[0])[0]["containerID"] != statuses(leader)[0]["containerID"]

    async def all_are_connected() -> bool:
        found = await runtime.leader("bot-runner")
        return found is not None and workers <= {worker["worker_id"] for worker in found[1]["workers"]}

    await eventually(another_leads, within_seconds=PATIENCE_SECONDS, every_seconds=0.1)
    led = time.monotonic()
    await eventually(all_are_connected, within_seconds=PATIENCE_SECONDS, every_seconds=0.1)
    return led - begun, time.monotonic() - led


async def settled(runtime: DevRuntime) -> Any:
    """Return the leader's pod once all masters are ready and receive the Service's traffic; None until then."""
    ready = [pod["metadata"]["name"] for pod in await runtime.endpoints("bot-runner")]
    found = await runtime.leader("bot-runner")
    return found[0] if len(ready) == MASTERS and found is not None and found[0]["metadata"]["name"] in ready else None


async def test_wrong_image_leaves_the_masters_as_they_are(runtime: DevRuntime) -> None:
    async def masters() -> set[str]:
        """Return the masters, once there are as many as wanted and all are settled; empty until then."""
        pods = {pod["metadata"]["name"] for pod in await runtime.pods("bot-runner", "master")}
        return pods if len(pods) == MASTERS and await settled(runtime) else set()

    async def old_masters_are_ready() -> bool:
        return {pod["metadata"]["name"] for pod in await runtime.endpoints("bot-runner")} == old

    old = await eventually(masters, within_seconds=PATIENCE_SECONDS, every_seconds=0.5)
    place = f"--namespace={NAMESPACE}"
    await runtime.cluster.kubectl(place, "set", "image", MASTER, "master=the0.invalid/bot-runner:wrong")
    try:
        new = await eventually(lambda: not_pulled(runtime, old), within_seconds=PATIENCE_SECONDS, every_seconds=0.5)
        # A standby is not ready for 10 s after a failover, and the test before this one ends a leader.
        await eventually(old_masters_are_ready, within_seconds=PATIENCE_SECONDS, every_seconds=0.5)
        await eventually(lambda: settled(runtime), within_seconds=PATIENCE_SECONDS, every_seconds=0.5)
    finally:
        await runtime.cluster.kubectl(place, "rollout", "undo", MASTER)

    assert len(new) == 1


async def not_pulled(runtime: DevRuntime, others: Collection[str]) -> list[str]:
    """Return the masters besides *others* whose image cannot be pulled."""
    return [
        pod["metadata"]["name"]
        for pod in await runtime.pods("bot-runner", "master")
        if pod["metadata"]["name"] not in others
        and any(status.get("state", {}).get("waiting", {}).get("reason") in NOT_PULLED for status in statuses(pod))
    ]


def skip_on_other_clusters(runtime: DevRuntime) -> None:
    if runtime.cluster.kubeconfig != str(KUBECONFIG):
        pytest.skip("tests cause faults on nodes of `tests/cluster/up` only")


def statuses(pod: Any) -> list[Any]:
    return list(pod["status"].get("containerStatuses", [{"started": False}]))


async def test_autoscaler_scales_up_and_down_and_never_removes_an_owner(runtime: DevRuntime) -> None:
    for bot in BOTS:
        await runtime.platform.create_bot(bot, {}, key="bot.zip")

    homes = await eventually(lambda: one_worker_each(runtime, BOTS), within_seconds=PATIENCE_SECONDS, every_seconds=1)
    assert await runtime.replicas("bot-runner-worker") == len(BOTS)
    # The bot that stays is on the pod that Kubernetes removes first unless the autoscaler protects it.
    pods = await runtime.pods("bot-runner", "worker")
    first_to_go = min(pods, key=lambda pod: place_in_removal(pod, pods))["metadata"]["name"]
    *deleted, stays = sorted(BOTS, key=lambda bot: homes[bot].pod == first_to_go)

    for bot in deleted:
        await runtime.platform.delete_bot(bot)

    async def one_pod() -> list[Any]:
        found = await runtime.pods("bot-runner", "worker")
        return found if len(found) == 1 else []

    await eventually(one_pod, within_seconds=PATIENCE_SECONDS, every_seconds=1)
    assert await runtime.replicas("bot-runner-worker") == 1
    assert await runtime.containers("bot-runner", stays) == [homes[stays]]
    await runtime.platform.delete_bot(stays)


async def test_rollout_needs_no_registry_and_moves_a_bot_once(runtime: DevRuntime) -> None:
    bot = "bot-rolled"
    await runtime.platform.create_bot(bot, {}, key="bot.zip")
    homes = await eventually(lambda: one_worker_each(runtime, [bot]), within_seconds=PATIENCE_SECONDS, every_seconds=1)
    place = f"--namespace={NAMESPACE}"

    async with runtime.without_registry():
        await runtime.cluster.kubectl(place, "rollout", "restart", WORKER)
        await eventually(lambda: is_rolled_out(runtime), within_seconds=PATIENCE_SECONDS, every_seconds=1)
        moved = await eventually(
            lambda: one_worker_each(runtime, [bot]), within_seconds=PATIENCE_SECONDS, every_seconds=1
        )

    assert moved[bot].pod != homes[bot].pod
    assert len(await runtime.runs("bot-runner", bot)) == 2
    await runtime.platform.delete_bot(bot)


async def is_rolled_out(runtime: DevRuntime) -> bool:
    """Whether all workers have the newest template, and all others have begun to end."""
    code, _, _ = await runtime.cluster.run(f"--namespace={NAMESPACE}", "rollout", "status", WORKER, "--timeout=5s")
    return code == 0


async def one_worker_each(runtime: DevRuntime, bots: Collection[str]) -> dict[str, BotContainer]:
    """Return the container of each bot, once no two share a worker; empty until then."""
    listed = await asyncio.gather(*(runtime.containers("bot-runner", bot) for bot in bots))
    found = dict(zip(bots, listed, strict=True))
    if any(len(containers) != 1 for containers in found.values()):
        return {}
    homes = {bot: container for bot, (container,) in found.items()}
    return homes if len({home.pod for home in homes.values()}) == len(bots) else {}


def place_in_removal(pod: Any, pods: list[Any]) -> tuple[int, int, str]:
    """Return the sort key of Kubernetes' order of removal of ready pods with equal deletion costs."""
    per_node = Counter(found["spec"]["nodeName"] for found in pods)
    (ready,) = (found for found in pod["status"]["conditions"] if found["type"] == "Ready")
    age = datetime.now(UTC) - datetime.fromisoformat(ready["lastTransitionTime"])
    return -per_node[pod["spec"]["nodeName"]], int(math.log2(max(age.total_seconds(), 1))), pod["metadata"]["uid"]


async def test_rollout_spreads_masters_that_share_a_node(runtime: DevRuntime) -> None:
    shared = (await runtime.pods("bot-runner", "master"))[0]["spec"]["nodeName"]
    names = [node["metadata"]["name"] for node in await runtime.cluster.read("nodes")]
    cordoned = [name for name in names if name != shared]
    masters = "--selector=app.kubernetes.io/name=bot-runner,app.kubernetes.io/component=master"
    for node in cordoned:
        await runtime.cluster.kubectl("cordon", node)
    try:
        await runtime.cluster.kubectl(f"--namespace={NAMESPACE}", "delete", "pods", masters, "--grace-period=1")
        old = await eventually(lambda: placed(runtime, []), within_seconds=PATIENCE_SECONDS, every_seconds=1)
    finally:
        for node in cordoned:
            await runtime.cluster.kubectl("uncordon", node)
    assert set(old.values()) == {shared}

    await runtime.cluster.kubectl(f"--namespace={NAMESPACE}", "rollout", "restart", MASTER)

    new = await eventually(lambda: placed(runtime, old), within_seconds=PATIENCE_SECONDS, every_seconds=1)
    assert len(set(new.values())) == MASTERS


async def placed(runtime: DevRuntime, replaced: Collection[str]) -> dict[str, str]:
    """Return the node of each master, once all have one and none is of *replaced*; empty until then."""
    pods = await runtime.pods("bot-runner", "master")
    nodes = {pod["metadata"]["name"]: pod["spec"].get("nodeName", "") for pod in pods}
    return nodes if len(nodes) == MASTERS and all(nodes.values()) and not nodes.keys() & set(replaced) else {}


async def test_bots_and_lead_of_a_lost_node_go_elsewhere_before_kubernetes_replaces_its_pods(
    runtime: DevRuntime,
) -> None:
    skip_on_other_clusters(runtime)
    (mongo,) = await runtime.cluster.read("pods", f"--namespace={NAMESPACE}", "--selector=app.kubernetes.io/name=mongo")
    stays = mongo["spec"]["nodeName"]
    homes = await homes_on_two_nodes(runtime)
    node, lost_bot = next((node, bot) for bot, (node, _) in homes.items() if node != stays)
    survivor = next(home for _, home in homes.values() if home.pod != homes[lost_bot][1].pod)
    await eventually(lambda: leads_on(runtime, node), within_seconds=PATIENCE_SECONDS, every_seconds=1)

    async def leads_elsewhere() -> Any:
        return await runtime.leader("bot-runner", lost_node=node)

    async def runs_elsewhere() -> bool:
        running = await runtime.engine(survivor.pod, "ps", "--quiet", f"--filter=label=runtime.id={lost_bot}")
        return len(running.split()) == 1

    async def leader_is_reached_by_the_service() -> bool:
        found = await leads_elsewhere()
        return found is not None and found[0]["metadata"]["name"] in {
            pod["metadata"]["name"] for pod in await runtime.endpoints("bot-runner")
        }

    with suspended_kubelet(node):
        await kill_all_containers(node)
        killed_at = datetime.now(UTC)
        await asyncio.gather(
            eventually(leads_elsewhere, within_seconds=LOST_NODE_SECONDS, every_seconds=0.5),
            eventually(runs_elsewhere, within_seconds=LOST_NODE_SECONDS, every_seconds=0.5),
        )
        await eventually(leader_is_reached_by_the_service, within_seconds=LOST_NODE_SECONDS, every_seconds=0.5)
        await report_lost(runtime, node)
        await eventually(lambda: none_wanted_on(runtime, node), within_seconds=REPLACED_SECONDS, every_seconds=1)
    await runtime.cluster.kubectl("wait", "--for=condition=Ready", f"node/{node}", "--timeout=120s")
    starts = [datetime.fromisoformat(run["started_at"]) for run in await runtime.runs("bot-runner", lost_bot)]
    assert min(start for start in starts if start > killed_at) - killed_at < timedelta(seconds=BACK_SECONDS)


async def homes_on_two_nodes(runtime: DevRuntime) -> dict[str, tuple[str, BotContainer]]:
    """Create two bots, and return the node and the container of each once they are on different nodes."""
    bots = ("bot-here", "bot-there")
    (only,) = await eventually(lambda: ready_workers(runtime, 1), within_seconds=PATIENCE_SECONDS, every_seconds=1)
    await runtime.cluster.kubectl("cordon", only["spec"]["nodeName"])
    try:
        for bot in bots:
            await runtime.platform.create_bot(bot, {}, key="bot.zip")
        homes = await eventually(
            lambda: one_worker_each(runtime, bots), within_seconds=PATIENCE_SECONDS, every_seconds=1
        )
    finally:
        await runtime.cluster.kubectl("uncordon", only["spec"]["nodeName"])
    nodes = {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in await runtime.pods("bot-runner", "worker")}
    return {bot: (nodes[home.pod], home) for bot, home in homes.items()}


async def ready_workers(runtime: DevRuntime, number: int) -> list[Any]:
    """Return the workers, once there are as many and all are ready; empty until then."""
    found = await runtime.pods("bot-runner", "worker")
    return found if len(found) == number and all(map(is_ready, found)) else []


async def leads_on(runtime: DevRuntime, node: str) -> bool:
    """Whether the leader is on *node*; one that is elsewhere is deleted, since the standby is there."""
    leader = await settled(runtime)
    if leader is not None and leader["spec"]["nodeName"] != node:
        await delete(runtime, leader)
    return leader is not None and leader["spec"]["nodeName"] == node


async def report_lost(runtime: DevRuntime, node: str) -> None:
    """Do what the node controller does when it has heard nothing from a kubelet for its grace period."""
    lost = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}
    status = json.dumps({"status": {"conditions": [lost]}})
    await runtime.cluster.kubectl("patch", "node", node, "--subresource=status", f"--patch={status}")


async def none_wanted_on(runtime: DevRuntime, node: str) -> bool:
    """Whether no pod of a service is on *node* but those that are being deleted."""
    pods = [
        pod for service in SERVICES for role in ("master", "worker") for pod in await runtime.pods(service.name, role)
    ]
    return all(pod["spec"].get("nodeName", node) != node for pod in pods)
