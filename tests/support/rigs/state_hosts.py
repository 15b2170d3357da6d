"""Hosts whose workers keep the state of bots, with real servers and without containers."""

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from libs.core.saved_state import SavedState
from libs.core.storage.object_store import ObjectStore
from libs.core.store.client import Database
from libs.core.store.saved_states import SavedStateStore
from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.containers.names import container_name
from libs.docker_runner.containers.run_folders import RunFolders
from libs.docker_runner.executable import CodeRef, Entrypoint, Executable, Placement
from libs.docker_runner.state.archives import StateFile, StateLimits, files_in, tar_of
from libs.docker_runner.state.keeper import StateKeeper
from libs.docker_runner.state.keys import copy_key, state_folder
from libs.docker_runner.state.versions import StateVersions
from tests.support.fakes.log_host import a_container
from tests.support.faults.deaths import Death, Mortal

LIMITS = StateLimits(1 << 20)
BOT = Executable(
    id="b/1",
    service="bot-runner",
    scope="s",
    runtime="python3.11",
    entrypoint=Entrypoint.BOT,
    script="main.py",
    code=CodeRef("bots", "k"),
    placement=Placement("image"),
    segment=1,
    epoch=1,
    run_id="r1",
)


@dataclass
class World:
    """The servers, with any number of hosts."""

    database: Database
    objects: ObjectStore
    bucket: str
    directory: Path
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def host(self, death: Death | None = None, objects: ObjectStore | None = None) -> "Host":
        """A new host, whose worker crashes as *death* says."""
        death = death or Death()
        pointers: Any = Mortal(SavedStateStore(self.database, "bots"), death, "read", "claim", "replace")
        store: Any = Mortal(objects or self.objects, death, "put_file", "get_to_file", "remove")
        folders = RunFolders(self.directory / str(next(self.numbers)))
        folders.prepare()
        return Host(folders, StateVersions(store, self.bucket, pointers, "bot-runner"))

    async def started(self, objects: ObjectStore | None = None) -> tuple["Host", ManagedContainer]:
        """A new bot, on a new host on which it has been started."""
        await self.create()
        host = self.host(objects=objects)
        container, begins_with = await host.start(BOT)
        assert begins_with == {}
        return host, container

    async def create(self, entity_id: str = "b/1", segment: int = 1) -> None:
        await self.database["bots"].insert_one({"id": entity_id, "segment_id": segment})

    async def saved(self, entity_id: str = "b/1") -> SavedState:
        found = await SavedStateStore(self.database, "bots").read(entity_id)
        assert found is not None
        return found

    async def keys(self, entity_id: str = "b/1") -> set[str]:
        return {info.key async for info in self.objects.list(self.bucket, state_folder(entity_id))}

    async def copied(self, entity_id: str = "b/1") -> Mapping[str, bytes]:
        return content_of(await self.objects.get(self.bucket, copy_key(entity_id)))


class Host:
    """One host: its folders, and the keeper of its latest worker."""

    def __init__(self, folders: RunFolders, versions: StateVersions) -> None:
        self.folders = folders
        self.versions = versions
        self.now = 0.0
        self.keeper = self.worker()

    def worker(self, versions: StateVersions | None = None) -> StateKeeper:
        """A new worker on this host, with nothing in memory of the one before."""
        self.keeper = StateKeeper(
            versions or self.versions,
            service="bot-runner",
            scope="s",
            limits=LIMITS,
            owns=lambda segment: True,
            clock=lambda: self.now,
        )
        self.keeper.open(self.folders)
        self.keeper.begin(1, 1)
        return self.keeper

    async def start(self, executable: Executable) -> tuple[ManagedContainer, Mapping[str, bytes]]:
        """Start it like the runner; return the container and the state at its start."""
        claimed = await self.keeper.beginnings.claim(executable)
        container = replace(
            a_container("c", executable.id, executable.segment),
            name=container_name(executable.service, executable.scope, executable.id),
            token=os.urandom(6).hex(),
            run_id=executable.run_id,
            epoch=executable.epoch,
        )
        paths = self.folders.create(executable, container.name, container.token, Path("/code"))
        assert paths.state is not None
        await self.keeper.beginnings.restore(executable, claimed, paths.state)
        restored = paths.state.restored
        return container, content_of(restored.read_bytes()) if restored.exists() else {}

    def write(self, container: ManagedContainer, **contents: str) -> None:
        """Put an archive where the init does."""
        self.put(container, tar_of([StateFile(n.encode(), t.encode()) for n, t in contents.items()], 0))

    async def save(self, container: ManagedContainer, **contents: str) -> None:
        """Write an archive, and save it as the last one."""
        self.write(container, **contents)
        await self.keeper.save(container)

    def put(self, container: ManagedContainer, archive: bytes) -> None:
        """Put any bytes there."""
        path = self.path(container)
        path.with_name("new").write_bytes(archive)
        path.with_name("new").rename(path)

    def path(self, container: ManagedContainer) -> Path:
        """Where the init puts archives."""
        return self.folders.state(container).saved


def content_of(archive: bytes) -> Mapping[str, bytes]:
    return {file.name.decode(): file.content for file in files_in(archive, LIMITS) if file.content is not None}
