"""The configuration that Compose hands to NATS and to Prometheus, read by themselves."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
import pytest_asyncio

from tests.deploy.manifests import KUBERNETES, ROOT
from tests.support.eventually import eventually
from tests.support.servers.prometheus import prometheus_program
from tools.stack import binaries
from tools.stack.ports import free_port

FOLDER = ROOT / "deploy" / "compose"


def generated_passwords() -> dict[str, str]:
    script = subprocess.run([FOLDER / "new-env.sh"], capture_output=True, text=True, timeout=60, check=True)
    return dict(line.split("=") for line in script.stdout.splitlines() if line.startswith("NATS_PASSWORD"))


@pytest.fixture
async def nats_of_compose(tmp_path: Path) -> AsyncIterator[tuple[int, str]]:
    """A server that was given nats.conf and passwords that new-env.sh made, only its ports and folder changed."""
    port, passwords = free_port(), generated_passwords()
    config = tmp_path / "nats.conf"
    config.write_text((FOLDER / "nats.conf").read_text().replace("/data", str(tmp_path / "data")))
    shutil.copy(KUBERNETES / "components" / "backing-services" / "nats-users.conf", tmp_path)
    options = [f"--config={config}", f"--port={port}", f"--http_port={free_port()}", f"--log={tmp_path / 'log'}"]
    process = await asyncio.create_subprocess_exec(
        binaries.nats_server(), *options, env={**passwords, "NATS_OLDER_INBOX": "_INBOX.none"}
    )
    try:
        await eventually(lambda: "Server is ready" in (tmp_path / "log").read_text())
        yield port, passwords["NATS_PASSWORD"]
    finally:
        process.kill()
        await process.wait()


async def test_generated_password_gives_access_to_jetstream(nats_of_compose: tuple[int, str]) -> None:
    port, password = nats_of_compose

    client = await nats.connect(f"nats://the0:{password}@127.0.0.1:{port}", allow_reconnect=False, connect_timeout=20)
    account = await client.jetstream(timeout=20).account_info()
    await client.close()

    assert account.streams == 0


async def test_nats_refuses_connections_without_the_password(nats_of_compose: tuple[int, str]) -> None:
    port, _ = nats_of_compose

    assert "Authorization Violation" in await first_words(port, b"CONNECT {}\r\nPING\r\n")


async def first_words(port: int, said: bytes) -> str:
    """What the server answers a client that says this and no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(said)
        return (await asyncio.wait_for(reader.read(), 30)).decode()
    finally:
        writer.close()
        await writer.wait_closed()


@pytest_asyncio.fixture(loop_scope="session")
async def promtool() -> Path:
    """Prometheus's own checker."""
    return await prometheus_program("promtool")


def test_prometheus_accepts_the_configuration_and_the_rules_that_it_mounts(promtool: Path, tmp_path: Path) -> None:
    config = (
        (FOLDER / "prometheus.yml").read_text().replace("/etc/prometheus/rules", f"{FOLDER.parent}/prometheus/rules")
    )
    (tmp_path / "prometheus.yml").write_text(config)

    process = subprocess.run(
        [promtool, "check", "config", tmp_path / "prometheus.yml"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stdout.count("rules found") == len(list((FOLDER.parent / "prometheus" / "rules").iterdir()))
