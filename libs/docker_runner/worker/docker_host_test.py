"""Which users of bots a worker accepts on its engine."""

import os
import socket
from pathlib import Path

import pytest

from libs.core.room import MIB, Need
from libs.docker_runner.engine.answers import EngineInfo
from libs.docker_runner.engine.http import EngineHttp
from libs.docker_runner.engine.room import RoomRules
from libs.docker_runner.engine.users import UserRange, UsersUnusable
from libs.docker_runner.settings import RunnerSettings
from libs.docker_runner.worker.docker_host import check_users

ROOM = RoomRules(memory_overcommit=1.0)


def check(users: UserRange, memory_mb: int = 0, group: int | None = None, room: RoomRules = ROOM) -> None:
    info = EngineInfo("e", "n", ("runc",), Need(memory_mb * MIB, 0.0))
    check_users(RunnerSettings(temp_dir=Path("/t"), users=users, room=room), info, group)


def test_range_is_as_large_as_the_room_that_the_engine_reports_or_the_operator_sets() -> None:
    check(UserRange(30_000, 4), memory_mb=4 * 512)
    check(UserRange(30_000, 4))
    with pytest.raises(UsersUnusable, match="room for 5 containers"):
        check(UserRange(30_000, 4), memory_mb=5 * 512)
    with pytest.raises(UsersUnusable, match="room for 6 containers"):
        check(UserRange(30_000, 4), room=RoomRules(memory_bytes=6 * 512 * MIB, memory_overcommit=1.0))


def test_range_with_the_worker_or_the_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsersUnusable, match="the user of the worker"):
        check(UserRange(os.geteuid(), 1))
    with pytest.raises(UsersUnusable, match="the group of the Docker engine's socket"):
        check(UserRange(30_000, 4), group=30_003)


def test_group_of_the_engines_socket_is_known_if_there_is_one(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert EngineHttp(f"unix://{path}").socket_group() == path.stat().st_gid
    assert EngineHttp(f"unix://{tmp_path}/none").socket_group() is None
    assert EngineHttp("tcp://127.0.0.1:1").socket_group() is None
