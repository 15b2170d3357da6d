"""Names of Compose projects that tests start, and the removal of what tests left that were killed."""

import contextlib
import fcntl
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import docker
from docker.errors import APIError

PREFIX = "the0-test-"
MEMORY = Path("/dev/shm")
_NAMES = Path("/tmp/the0-test-projects")
"""A file for each project, locked by the process of its test: the kernel releases the lock, however that ends."""


@contextlib.contextmanager
def project_name(names: Path = _NAMES) -> Iterator[str]:
    """Provide a name that no other test uses. What carries it is a leftover once this process has died."""
    names.mkdir(parents=True, exist_ok=True)
    name = f"{PREFIX}{secrets.token_hex(4)}"
    with (names / f".{name}").open("w") as file:
        # Locked before it has its name: another process never sees it unlocked.
        fcntl.flock(file, fcntl.LOCK_EX)
        Path(file.name).rename(names / name)
        try:
            yield name
        finally:
            (names / name).unlink()


def remove_leftovers(client: docker.DockerClient, names: Path = _NAMES) -> list[str]:
    """Remove the projects of tests that died, and return their names. Those of running tests stay."""
    removed = []
    for path in sorted(names.glob(f"{PREFIX}*")):
        with contextlib.suppress(FileNotFoundError), path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            _remove(client, path.name)
            path.unlink()
            removed.append(path.name)
    return removed


def _remove(client: docker.DockerClient, name: str) -> None:
    of_project = {"label": f"com.docker.compose.project={name}"}
    # The bot that a test deploys is called like its project.
    for labels in (of_project, {"label": f"runtime.id={name}"}):
        for container in client.api.containers(all=True, filters=labels):
            with contextlib.suppress(APIError):  # it is being removed
                client.api.remove_container(container["Id"], force=True, v=True)
    for network in client.api.networks(filters=of_project):
        client.api.remove_network(network["Id"])
    for volume in client.api.volumes(filters=of_project)["Volumes"] or ():
        client.api.remove_volume(volume["Name"], force=True)
    for image in client.api.images():
        for tag in image["RepoTags"] or ():
            if tag.rpartition(":")[2].startswith(name):
                client.api.remove_image(tag, force=True)
    shutil.rmtree(MEMORY / name, ignore_errors=True)
