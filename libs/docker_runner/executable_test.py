"""What makes two executables the same."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from libs.docker_runner.containers.names import container_name, run_folder, scope_folder
from libs.docker_runner.executable import CodeRef, Entrypoint, Executable, Limits, Network, Placement

BOT = Executable(
    id="b1",
    service="bot-runner",
    scope="s",
    runtime="python3.11",
    entrypoint=Entrypoint.BOT,
    script="main.py",
    code=CodeRef("bots", "b1/1.0"),
    placement=Placement("python:3.11-slim"),
    version="1.0",
    config={"a": 1, "b": {"c": [1, 2]}},
)


def test_hash_of_code_without_digest_is_that_of_earlier_versions() -> None:
    assert BOT.spec_hash() == "c42dfd5ed81a42826675a261555565df"


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"a": 2}},
        {"version": "1.1"},
        {"data": ("prices",)},
        {"script": "other.py"},
        {"code": CodeRef("bots", "b1/1.1")},
        {"code": CodeRef("bots", "b1/1.0", "0" * 64)},
        {"entrypoint": Entrypoint.BACKTEST},
        {"runtime": "nodejs20"},
        {"limits": Limits(pids=10)},
        {"placement": Placement("python:3.11-slim@sha256:0")},
        {"placement": Placement("python:3.11-slim", Network.NONE)},
        {"placement": Placement("python:3.11-slim", container_runtime="runsc")},
    ],
)
def test_what_needs_a_restart_changes_the_hash(change: dict[str, Any]) -> None:
    assert replace(BOT, **change).spec_hash() != BOT.spec_hash()


@pytest.mark.parametrize(
    "change",
    [
        {"segment": 7},
        {"epoch": 9},
        {"worker": "w"},
        {"run_id": "r"},
        {"revision": 3},
        {"traceparent": "00-x"},
        {"keepalive": Path("/k")},
        {"config": {"b": {"c": [1, 2]}, "a": 1}},
    ],
)
def test_what_needs_none_does_not(change: dict[str, Any]) -> None:
    assert replace(BOT, **change).spec_hash() == BOT.spec_hash()


def test_a_config_has_no_nan_once_it_is_json() -> None:
    bot = replace(BOT, config={"x": float("nan"), "y": [float("inf"), {"z": -float("inf")}], "ok": 1.5})
    assert json.loads(bot.config_json) == {"x": None, "y": [None, {"z": None}], "ok": 1.5}


def test_a_config_is_no_part_of_what_is_logged() -> None:
    assert "s3cret" not in repr(replace(BOT, config={"key": "s3cret"}))


def test_names_are_made_of_digests_alone() -> None:
    name = container_name("bot-runner", "s", "../../etc/passwd \0 😀" * 100)
    assert name.startswith("the0-bot-runner-")
    assert name.removeprefix("the0-bot-runner-").isalnum()
    assert len(name) < 64


def test_container_name_of_entity_is_stable_and_unique() -> None:
    names = {container_name("bot-runner", scope, entity) for scope in ("a", "ab") for entity in ("bc", "c")}
    assert len(names) == 4
    assert container_name("bot-runner", "a", "c") == container_name("bot-runner", "a", "c")


def test_a_scope_names_no_folder_outside() -> None:
    folder = run_folder(Path("/t/runs"), "../..", "the0-x", "token")
    assert folder.parent.parent == scope_folder(Path("/t/runs"), "../..")
    assert folder.is_relative_to("/t/runs")
