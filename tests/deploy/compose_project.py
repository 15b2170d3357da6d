"""The Compose project as people start it, by `make`, with stand-ins for the images of other projects.

Of our services bot-runner is real, whose masters and worker do what is tested. The images of the others are made by the
same recipe; here they only answer health checks, which saves most of the tests' time.
"""

import ast
import asyncio
import contextlib
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import docker
from docker.errors import ImageNotFound
from docker.models.containers import Container

from libs.core.process.service import BOT_RUNNER, SERVICES
from tests.deploy.compose_images import StandIns
from tests.deploy.compose_leftovers import MEMORY
from tests.deploy.manifests import ROOT
from tools.stack import binaries

SERVICE_LABEL = "com.docker.compose.service"
"""The label of a container with the name of its service."""

# Containers are reached at their own addresses: a published port might be in use. The usual interval of health checks
# would be most of the tests' time. A killed test's containers must not start again with the engine. No lease may lapse,
# however busy the machine is.
_OURS = """\
  {name}:
    restart: "no"
    ports: !reset []
    healthcheck: {{interval: 1s}}
    environment: {{OTEL_SDK_DISABLED: "true", LEASE_SECONDS: "30"}}
"""
_STAND_IN = """\
    image: {image}
    pull_policy: never
"""
# With the entry point that the stand-in has, in place of the project's.
_S3_USERS = """\
  s3-users:
    image: {image}
    pull_policy: never
    entrypoint: [python3, /s3-users.py]
"""
# What the processes do not need.
_LEFT_OUT = """\
  {name}:
    profiles: [left-out]
"""


class ComposeProject:
    """A copy of the folder with a name, volumes and a work folder of its own, and without published ports.

    Args:
        folder: an empty one, which the engine sees as well.
        url: where the engine is.
        make: the program.
        stand_ins: for services of other projects, which are left out without one, and for ours apart from bot-runner.

    Attributes:
        folder: the copy of deploy/compose; `.env` is there after `prepare`.
        first, second: the tags of two versions of our images.
    """

    def __init__(self, folder: Path, client: docker.DockerClient, url: str, make: Path, stand_ins: StandIns) -> None:
        self.name = stand_ins.name
        self.folder = folder / "deploy" / "compose"
        self.work = folder / "work"
        # Of its own, since workers of other users may have made theirs in the usual one.
        self._memory = MEMORY / self.name
        self.first, self.second = f"{self.name}-1", f"{self.name}-2"
        self._client = client
        self._url = url
        self._make = make
        self._images = {service.name: stand_ins.answering for service in SERVICES}
        self._images[BOT_RUNNER.name] = f"the0/{BOT_RUNNER.name}:latest"
        shutil.copytree(ROOT / "deploy", folder / "deploy", ignore=shutil.ignore_patterns(".env"))
        # What builds the images; all that are asked for are here.
        (folder / "pants").write_text("#!/bin/sh\nexit 1\n")
        (folder / "pants").chmod(0o755)
        (folder / "changes.yaml").write_text(_changes(stand_ins.servers, stand_ins.s3_users))
        files = f"-f {self.folder}/compose.yaml -f {folder}/changes.yaml"
        self._compose = f"{binaries.docker_compose()} -p {self.name} {files}"

    def prepare(self) -> None:
        """Write `.env`, and tag our images as two versions that differ."""
        for name, source in self._images.items():
            image = self._client.images.get(source)
            image.tag(f"the0/{name}", self.first)
            container = self._client.containers.create(image)
            try:
                container.commit(f"the0/{name}", self.second, changes=f"LABEL test.of={self.name}")
            finally:
                container.remove()
        self._memory.mkdir()
        self._memory.chmod(0o1777)
        self.make(".env")
        settings = dict(self.environment())
        settings |= {
            "TAG": self.first,
            "WORK_DIR": str(self.work),
            "MEMORY_DIR": str(self._memory),
            "BOT_RUNNER_WORKERS": "1",
            "BOT_SCHEDULER_WORKERS": "0",
        }
        (self.folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    def make(self, *arguments: str) -> str:
        """Run `make` and return what it printed, errors included.

        Raises:
            AssertionError: it failed; the message has the end of what it printed.
        """
        process = subprocess.run(
            [self._make, *arguments, f"COMPOSE={self._compose}"],
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder.parent),
                "DOCKER_HOST": self._url,
                "DOCKER_SOCKET": self._url.removeprefix("unix://"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        assert process.returncode == 0, f"make {arguments}: {process.stdout[-3000:]}"
        return process.stdout

    async def make_aside(self, *arguments: str, watch: Callable[[], Awaitable[None]] | None = None) -> None:
        """The same, with *watch* called over and over meanwhile. Returns when `make` has ended, whatever happens."""
        making = asyncio.create_task(asyncio.to_thread(self.make, *arguments))
        try:
            while watch is not None and not making.done():
                await watch()
                await asyncio.wait([making], timeout=0.05)
        finally:
            await making

    def environment(self) -> dict[str, str]:
        """What is in `.env`."""
        lines = (self.folder / ".env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))

    def containers(self, service: str = "") -> list[Container]:
        """Those of a service, or all, that run."""
        labels = [f"com.docker.compose.project={self.name}"]
        if service:
            labels.append(f"{SERVICE_LABEL}={service}")
        return list(self._client.containers.list(filters={"label": labels}, ignore_removed=True))

    def running(self) -> Counter[str]:
        """How many containers of each service run, at one moment."""
        label = f"com.docker.compose.project={self.name}"
        listed = self._client.api.containers(filters={"label": label})
        return Counter(found["Labels"][SERVICE_LABEL] for found in listed)

    def versions(self) -> dict[str, list[str]]:
        """The tags that masters and workers run with, by service."""
        found: dict[str, list[str]] = {}
        for container in self.containers():
            image = container.attrs["Config"]["Image"]
            if image.startswith("the0/"):
                name = container.labels[SERVICE_LABEL]
                found.setdefault(name, []).append(image.partition(":")[2])
        return found

    def files(self, service: str, folder: str) -> dict[str, bytes]:
        """The files of a folder in the one container of *service* that runs, by name."""
        (container,) = self.containers(service)
        script = "import pathlib, sys; print({f.name: f.read_bytes() for f in pathlib.Path(sys.argv[1]).iterdir()})"
        ended = container.exec_run(["python3", "-c", script, folder])
        assert isinstance(ended.output, bytes)
        output = ended.output.decode()
        assert ended.exit_code == 0, output
        found: dict[str, bytes] = ast.literal_eval(output)
        return found

    def attached_volumes(self) -> set[str]:
        """The volumes of the containers that run, those without a name of their own included."""
        mounts = [mount for container in self.containers() for mount in container.attrs["Mounts"]]
        return {mount["Name"] for mount in mounts if mount["Type"] == "volume"}

    def volumes(self) -> set[str]:
        """All volumes of the engine, by name."""
        answer: dict[str, Any] = self._client.api.volumes()
        return {volume["Name"] for volume in answer["Volumes"] or ()}

    def address(self, service: str) -> str:
        """The address of the one container of *service* that runs."""
        (container,) = self.containers(service)
        (network,) = container.attrs["NetworkSettings"]["Networks"].values()
        return str(network["IPAddress"])

    def remove(self) -> None:
        """Remove whatever is left, and both versions of our images."""
        try:
            if (self.folder / ".env").exists():
                self.make("clean")
        finally:
            shutil.rmtree(self._memory, ignore_errors=True)
            for name in self._images:
                for tag in (self.first, self.second):
                    with contextlib.suppress(ImageNotFound):  # it was not made
                        self._client.images.remove(f"the0/{name}:{tag}", force=True)


def _changes(images: Mapping[str, str], s3_users: str) -> str:
    """The changes of the project that tests make, as a second file of Compose."""
    changes = ["services:\n"]
    for service in SERVICES:
        changes += [_OURS.format(name=f"{service.name}-{role}") for role in ("master", "master-2", "worker")]
    for name, image in images.items():
        changes.append(_OURS.format(name=name) + _STAND_IN.format(image=image))
    changes.append(_S3_USERS.format(image=s3_users))
    changes += [_LEFT_OUT.format(name=name) for name in ("prometheus", "grafana", "traces") if name not in images]
    return "".join(changes)
