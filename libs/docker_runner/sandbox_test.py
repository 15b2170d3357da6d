"""The walls, as the engine is told of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from libs.docker_runner.executable import MIB, Entrypoint, Limits, Network, Placement
from libs.docker_runner.executable_test import BOT
from libs.docker_runner.network import Attachment
from libs.docker_runner.sandbox import Paths, container_body
from libs.docker_runner.settings import RunnerSettings

PATHS = Paths(Path("/code"), Path("/runs/spec"), Path("/runs/outcome"), Path("/entry"))
SETTINGS = RunnerSettings(temp_dir=Path("/t"))


OWN = Attachment("net", walled=False)


def body(executable: Any = BOT, attachment: Attachment | None = OWN) -> dict[str, Any]:
    return container_body(
        executable, paths=PATHS, code_etag="e", token="0123456789ab", attachment=attachment, settings=SETTINGS
    )  # fmt: skip


def test_the_sandbox_is_on_by_default() -> None:
    host = body()["HostConfig"]
    assert body()["User"] == "10001:10001"
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["ReadonlyRootfs"] is True
    assert host["Init"] is True
    assert host["Memory"] == host["MemorySwap"] == 512 * MIB
    assert host["PidsLimit"] == 256
    assert host["NetworkMode"] == "net"
    assert "CapAdd" not in host


def test_only_the_outcome_can_be_written() -> None:
    mounts = {
        mount["Target"]: mount["ReadOnly"] for mount in body(replace(BOT, keepalive=Path("/k")))["HostConfig"]["Mounts"]
    }
    assert mounts == {
        "/bot": True,
        "/run/the0/spec": True,
        "/run/the0/entry": True,
        "/run/the0/keepalive": True,
        "/run/the0/outcome": False,
    }


def test_a_backtests_code_is_where_the_contract_says() -> None:
    described = body(replace(BOT, entrypoint=Entrypoint.BACKTEST))
    assert described["WorkingDir"] == "/backtest"
    assert described["HostConfig"]["Mounts"][0]["Target"] == "/backtest"


def test_no_shell_and_no_entrypoint_of_the_image_is_run() -> None:
    assert body()["Entrypoint"][0] == "python3"
    node = body(replace(BOT, runtime="nodejs20"))
    assert node["Entrypoint"][0] == "node"
    assert node["Cmd"] == []
    assert {mount["Source"] for mount in node["HostConfig"]["Mounts"]} >= {"/entry/node"}


def test_nothing_of_the_config_is_in_it() -> None:
    assert "s3cret" not in json.dumps(body(replace(BOT, config={"key": "s3cret"})))


def test_the_labels_are_the_contracts_and_ours() -> None:
    labels = body(replace(BOT, id="../x 😀", segment=7))["Labels"]
    assert labels["runtime.managed"] == "true"
    assert labels["runtime.id"] == "../x 😀"
    assert labels["runtime.entrypoint"] == "bot"
    assert labels["runtime.segment"] == "7"
    assert labels["runtime.spec-hash"] == replace(BOT, id="../x 😀").spec_hash()


def test_limits_and_placement_are_passed_on() -> None:
    host = body(
        replace(
            BOT,
            limits=Limits(cpus=0.5, cpu_shares=512, open_files=99, tmp_bytes=MIB),
            placement=Placement("image", Network.BRIDGE, "runsc"),
        )
    )["HostConfig"]
    assert host["NanoCpus"] == 500_000_000
    assert host["CpuShares"] == 512
    assert host["Runtime"] == "runsc"
    assert {"Name": "nofile", "Soft": 99, "Hard": 99} in host["Ulimits"]
    assert f"size={MIB}," in host["Tmpfs"]["/tmp"]


@pytest.mark.parametrize("network", [Network.NONE, Network.HOST])
def test_other_networks_need_none_of_ours(network: Network) -> None:
    described = body(replace(BOT, placement=Placement("image", network)), attachment=None)
    assert described["HostConfig"]["NetworkMode"] == str(network)


def test_a_walled_card_has_an_address_of_ours() -> None:
    described = body(attachment=Attachment("bridge", walled=True))
    assert described["MacAddress"] == "06:b0:01:23:45:67"
    assert described["HostConfig"]["NetworkMode"] == "bridge"
