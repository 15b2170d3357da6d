"""The catalogue of faults, of a world in which nothing runs."""

import random
from pathlib import Path
from typing import cast

import pytest

from libs.core.process.service import BOT_RUNNER
from tests.chaos.faults import catalogue
from tests.chaos.party import Party
from tests.chaos.replica_set import Member, ReplicaSet
from tests.chaos.schedule import CLOCKS, NAMES
from tests.chaos.world import ENGINES, Process, World
from tests.support.rigs.platform import Platform
from tests.support.servers.mongo_clock import LIBRARIES
from tools.dev.service import ServiceProcess
from tools.stack.nats import NatsServer
from tools.stack.s3 import S3Server


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two masters and four workers that were never started."""
    members = [Member(Party(f"mongo-{n}", n, tmp_path), tmp_path, settable=False) for n in (1, 2, 3)]
    made = World(
        tmp_path,
        engines={},
        disks={},
        mongo=ReplicaSet(members),
        nats_server=NatsServer(tmp_path),
        s3_server=S3Server(tmp_path),
        platform=cast(Platform, None),
    )
    places = [("master", ""), ("master", ""), *(("worker", engine) for engine in (*ENGINES, *ENGINES))]
    for number, (role, engine) in enumerate(places):
        name = f"{role}-{number}"
        process = ServiceProcess(name, [], {}, http_port=1, log_path=tmp_path / name, tethered=True)
        made.processes[name] = Process(name, BOT_RUNNER, role, engine, Party(name, 9, tmp_path), process)
    return made


def test_catalogue_has_each_name_once(world: World) -> None:
    missing = set() if LIBRARIES else set(CLOCKS)

    assert sorted(fault.name for fault in catalogue(world, random.Random(1))) == sorted(set(NAMES) - missing)


@pytest.mark.parametrize("seed", range(5))
def test_no_single_fault_makes_all_workers_unfit_without_blocking(world: World, seed: int) -> None:
    workers = {one.name for one in world.workers()}

    for fault in catalogue(world, random.Random(seed)):
        assert fault.unfit <= workers
        assert fault.blocks or fault.name.startswith("bots' workers restarted") or fault.unfit < workers


def test_frozen_engine_makes_the_workers_of_that_engine_unfit(world: World) -> None:
    [frozen] = [fault for fault in catalogue(world, random.Random(1)) if fault.name == "engine frozen"]

    assert frozen.unfit in [{one.name for one in world.workers(engine)} for engine in ENGINES]
