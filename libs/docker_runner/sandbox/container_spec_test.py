"""The walls of the sandbox, as the engine gets them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from libs.core.room import MIB
from libs.docker_runner.executable import Entrypoint, Limits, Network, Placement, Question
from libs.docker_runner.executable_test import BOT
from libs.docker_runner.sandbox.container_spec import MASKED_PATHS, Paths, container_body, relay_command
from libs.docker_runner.sandbox.network import Attachment
from libs.docker_runner.settings import RunnerSettings

PATHS = Paths(Path("/code"), Path("/runs/spec"), Path("/runs/outcome"), Path("/entry"))
SETTINGS = RunnerSettings(temp_dir=Path("/t"))


OWN = Attachment("net", walled=False, named=False)


def body(
    executable: Any = BOT,
    attachment: Attachment | None = OWN,
    paths: Paths = PATHS,
    settings: RunnerSettings = SETTINGS,
) -> dict[str, Any]:
    return container_body(
        executable,
        paths=paths,
        code_etag="e",
        token="0123456789ab",
        user=30007,
        attachment=attachment,
        settings=settings,
    )


def test_the_sandbox_is_on_by_default() -> None:
    host = body()["HostConfig"]
    # The init's, which makes the bot another user.
    assert body()["User"] == "0:0"
    assert host["CapDrop"] == ["ALL"]
    assert host["CapAdd"] == ["SETUID", "SETGID", "KILL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["ReadonlyRootfs"] is True
    assert host["Init"] is False
    assert host["Memory"] == host["MemorySwap"] == 512 * MIB
    assert host["PidsLimit"] == 256
    assert host["NetworkMode"] == "net"


@pytest.mark.parametrize(
    ("runtime", "pids"),
    [(None, 256), ("runc", 256), ("runsc", 384), ("runsc-systrap", 384), ("runscape", 256)],
)
def test_kernel_of_gvisor_has_threads_beside_those_of_the_bot(runtime: str | None, pids: int) -> None:
    placement = replace(BOT.placement, container_runtime=runtime)

    host = body(replace(BOT, placement=placement))["HostConfig"]

    assert host["PidsLimit"] == pids
    assert host.get("Runtime") == runtime


def bind(source: str, target: str, read_only: bool = True) -> dict[str, Any]:
    options = {"Propagation": "rprivate"}
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only, "BindOptions": options}


def ulimit(name: str, value: int) -> dict[str, Any]:
    return {"Name": name, "Soft": value, "Hard": value}


def test_whole_description_of_a_container_is_this_and_nothing_more() -> None:
    # Each addition and each difference changes the sandbox, so it must show here.
    described = body()
    host = described.pop("HostConfig")
    labels = described.pop("Labels")

    assert described == {
        "Image": "python:3.11-slim",
        "Entrypoint": [
            "/run/the0/entry/the0-init",
            "/run/the0",
            "python3",
            "-I",
            "-S",
            "-B",
            "/run/the0/entry/start.py",
            "/run/the0",
        ],
        "Cmd": [],
        "User": "0:0",
        "WorkingDir": "/bot",
        "Env": [
            *("HOME=/tmp", "USER=bot", "LOGNAME=bot", "LANG=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1"),
            "STATE_DIR=/state/.the0-state",
        ],
        "StopSignal": "SIGTERM",
        "Healthcheck": {"Test": ["NONE"]},
    }
    assert labels.pop("runtime.spec-hash") == BOT.spec_hash()
    assert labels == {
        "runtime.managed": "true",
        "runtime.id": "b1",
        "runtime.entrypoint": "bot",
        "runtime.segment": "-1",
        "runtime.service": "bot-runner",
        "runtime.scope": "s",
        "runtime.code-etag": "e",
        "runtime.revision": "0",
        "runtime.run-id": "",
        "runtime.epoch": "0",
        "runtime.worker": "",
        "runtime.token": "0123456789ab",
        "runtime.memory-bytes": str(512 * MIB),
        "runtime.cpus": "0",
        "runtime.user": "30007",
    }
    assert host == {
        "Init": False,
        "CapDrop": ["ALL"],
        "CapAdd": ["SETUID", "SETGID", "KILL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "ReadonlyRootfs": True,
        "Privileged": False,
        "IpcMode": "private",
        "MaskedPaths": MASKED_PATHS,
        "Mounts": [
            bind("/code", "/bot"),
            bind("/runs/spec", "/run/the0/spec"),
            bind("/entry/python", "/run/the0/entry"),
            bind("/runs/outcome", "/run/the0/private/outcome", read_only=False),
        ],
        "Tmpfs": {
            "/tmp": f"rw,exec,nosuid,nodev,size={64 * MIB},nr_inodes=16384,mode=1777",
            "/run/the0/private": "rw,noexec,nosuid,nodev,size=64k,nr_inodes=16,mode=0700",
            "/state": f"rw,noexec,nosuid,nodev,size={64 * MIB},nr_inodes=4098,uid=30007,gid=30007,mode=0755",
            "/run/the0/written": f"rw,noexec,nosuid,nodev,size={17 * MIB},nr_inodes=16,mode=1777",
        },
        "ShmSize": 16 * MIB,
        "NetworkMode": "net",
        "PidsLimit": 256,
        "Memory": 512 * MIB,
        "MemorySwap": 512 * MIB,
        "OomScoreAdj": 999,
        "CpuShares": 1024,
        "Ulimits": [
            ulimit("nofile", 4096),
            ulimit("core", 0),
            ulimit("fsize", 81 * MIB),
            ulimit("memlock", 8 * MIB),
        ],
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "32768k", "max-file": "4"}},
    }


def test_only_the_outcome_can_be_written() -> None:
    mounts = {
        mount["Target"]: mount["ReadOnly"] for mount in body(replace(BOT, keepalive=Path("/k")))["HostConfig"]["Mounts"]
    }
    assert mounts == {
        "/bot": True,
        "/run/the0/spec": True,
        "/run/the0/entry": True,
        "/run/the0/keepalive": True,
        "/run/the0/private/outcome": False,
    }


def test_data_sets_are_mounted_read_only_below_data() -> None:
    data = {"prices.csv": Path("/t/data/trees/1/data"), "days": Path("/t/data/trees/2")}

    mounts = body(paths=replace(PATHS, data=data))["HostConfig"]["Mounts"]

    assert bind("/t/data/trees/1/data", "/data/prices.csv") in mounts
    assert bind("/t/data/trees/2", "/data/days") in mounts


def test_the_outcome_is_below_a_folder_that_only_root_may_enter() -> None:
    options = body()["HostConfig"]["Tmpfs"]["/run/the0/private"].split(",")
    assert {"mode=0700", "noexec", "size=64k"} <= set(options)


def test_backtest_code_is_at_the_path_of_the_contract() -> None:
    described = body(replace(BOT, entrypoint=Entrypoint.BACKTEST))
    assert described["WorkingDir"] == "/backtest"
    assert described["HostConfig"]["Mounts"][0]["Target"] == "/backtest"


def test_no_shell_and_no_entrypoint_of_the_image_is_run() -> None:
    assert body()["Entrypoint"][:3] == ["/run/the0/entry/the0-init", "/run/the0", "python3"]
    node = body(replace(BOT, runtime="nodejs20"))
    assert node["Entrypoint"][:3] == ["/run/the0/entry/the0-init", "/run/the0", "node"]
    assert node["Cmd"] == []
    assert {mount["Source"] for mount in node["HostConfig"]["Mounts"]} >= {"/entry/node"}


def test_nothing_of_the_config_is_in_it() -> None:
    assert "s3cret" not in json.dumps(body(replace(BOT, config={"key": "s3cret"})))


def test_labels_are_those_of_the_contract_and_of_the_runtime() -> None:
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
def test_other_network_modes_need_no_network_of_the_runtime(network: Network) -> None:
    described = body(replace(BOT, placement=Placement("image", network)), attachment=None)
    assert described["HostConfig"]["NetworkMode"] == str(network)


def test_isolated_interface_has_an_assigned_address() -> None:
    described = body(attachment=Attachment("bridge", walled=True))
    assert described["MacAddress"] == "06:b0:01:23:45:67"
    assert described["HostConfig"]["NetworkMode"] == "bridge"


@pytest.mark.parametrize("named", [True, False])
def test_interface_on_the_separate_bridge_has_an_assigned_address_where_the_engine_gives_it(named: bool) -> None:
    described = body(attachment=Attachment("an-id", walled=False, named=named))

    assert ("MacAddress" in described, "NetworkingConfig" in described) == (named, named)
    if named:
        address = described["MacAddress"]
        assert described["NetworkingConfig"] == {"EndpointsConfig": {"an-id": {"MacAddress": address}}}


def test_bot_with_listed_hosts_has_an_interface_and_a_hosts_file_of_its_own_and_no_name_server() -> None:
    narrowed, paths = replace(BOT, egress="a.example:443"), replace(PATHS, hosts=Path("/runs/hosts"))
    described = body(narrowed, Attachment("bridge", walled=True), paths)

    assert described["MacAddress"] == "06:b1:01:23:45:67"
    assert described["Labels"]["runtime.egress"] == "a.example:443"
    assert described["HostConfig"]["Dns"] == ["127.0.0.1"]
    (mount,) = [mount for mount in described["HostConfig"]["Mounts"] if mount["Target"] == "/etc/hosts"]
    assert (mount["Source"], mount["ReadOnly"]) == ("/runs/hosts", True)


def test_bot_with_listed_hosts_is_not_described_for_an_interface_without_rules_of_its_own() -> None:
    with pytest.raises(ValueError, match="needs an interface of its own rules"):
        body(replace(BOT, egress=""), OWN)


def test_proxy_is_in_the_environment_of_a_bot_unless_it_has_listed_hosts() -> None:
    settings = replace(SETTINGS, http_proxy="http://10.1.2.3:3128", no_proxy="localhost")
    narrowed, paths = replace(BOT, egress=""), replace(PATHS, hosts=Path("/runs/hosts"))
    walled = Attachment("bridge", walled=True)

    proxied = {line.partition("=")[0]: line.partition("=")[2] for line in body(settings=settings)["Env"]}
    assert {name: value for name, value in proxied.items() if "proxy" in name.lower()} == {
        "http_proxy": "http://10.1.2.3:3128",
        "HTTP_PROXY": "http://10.1.2.3:3128",
        "https_proxy": "http://10.1.2.3:3128",
        "HTTPS_PROXY": "http://10.1.2.3:3128",
        "no_proxy": "localhost",
        "NO_PROXY": "localhost",
    }
    assert body(narrowed, walled, paths, settings)["Env"] == body(narrowed, walled, paths)["Env"]


def test_bot_with_queries_shows_the_user_of_its_query_process() -> None:
    with_queries = replace(BOT, query="query.py")
    made = container_body(
        with_queries,
        paths=PATHS,
        code_etag="e",
        token="0123456789ab",
        user=30007,
        query_user=30008,
        attachment=OWN,
        settings=SETTINGS,
    )

    found = {name: text for name, text in made["Labels"].items() if "query" in name}
    assert found == {"runtime.query-user": "30008", "runtime.query-runtime": BOT.runtime}
    assert made["Entrypoint"][-1] == "/run/the0"
    assert not [name for name in body()["Labels"] if "query" in name]


def test_container_of_a_question_cannot_change_the_state_and_has_a_folder_for_its_answer() -> None:
    question = replace(BOT, question=Question("/a", "{}"))
    tmpfs = body(question)["HostConfig"]["Tmpfs"]

    assert (body()["Labels"]["runtime.entrypoint"], body(question)["Labels"]["runtime.entrypoint"]) == ("bot", "query")
    assert "uid=0,gid=0,mode=0755" in tmpfs["/state"]
    assert "uid=30007,gid=30007,mode=0700" in tmpfs["/query"]
    assert body(question)["Entrypoint"][-2:] == ["/run/the0", "query"]
    assert "uid=30007" in body()["HostConfig"]["Tmpfs"]["/state"]
    assert "/query" not in body()["HostConfig"]["Tmpfs"]


@pytest.mark.parametrize(("runtime", "program"), [("python3.11", "start.py"), ("nodejs20", "the0_query_process.js")])
def test_relay_starts_the_query_process_of_the_runtime(runtime: str, program: str) -> None:
    command = relay_command(runtime)

    assert command[:3] == ["/run/the0/entry/the0-init", "--queries", "/run/the0"]
    assert f"/run/the0/entry/{program}" in command
