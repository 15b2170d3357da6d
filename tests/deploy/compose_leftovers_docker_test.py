"""What a killed test leaves of its Compose project is removed by the next one; what runs is left alone."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.deploy.compose_leftovers import project_name, remove_leftovers
from tools.engine.ensure import Engine

# A test that is killed within its project.
HELD = """
import sys, time
from pathlib import Path
from tests.deploy.compose_leftovers import project_name
with project_name(Path(sys.argv[1])) as name:
    print(name, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def client(docker_engine: Engine) -> Iterator[docker.DockerClient]:
    engine_client = docker.DockerClient(base_url=docker_engine.url, timeout=600)
    yield engine_client
    engine_client.close()


def make_project(client: docker.DockerClient, name: str) -> None:
    """Make what a project consists of, by the labels that Compose gives it."""
    labels = {"com.docker.compose.project": name}
    client.images.get("python:3.11-slim").tag("the0-stand-in/test", name)
    client.networks.create(name, labels=labels)
    client.volumes.create(name, labels=labels)
    volumes = {name: {"bind": "/data"}}
    client.containers.run(f"the0-stand-in/test:{name}", "sleep 600", detach=True, labels=labels, volumes=volumes)


def remains(client: docker.DockerClient, name: str) -> list[int]:
    """How many containers, networks, volumes and tags of a project there are."""
    of_project = {"label": f"com.docker.compose.project={name}"}
    return [
        len(client.api.containers(all=True, filters=of_project)),
        len(client.api.networks(filters=of_project)),
        len(client.api.volumes(filters=of_project)["Volumes"] or ()),
        len(client.api.images(f"the0-stand-in/test:{name}")),
    ]


def test_project_of_killed_test_is_removed_and_that_of_running_test_stays(
    tmp_path: Path, client: docker.DockerClient
) -> None:
    command = [sys.executable, "-c", HELD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": ":".join(sys.path)}) as killed:
        assert killed.stdout is not None
        dead = killed.stdout.readline().strip()
        make_project(client, dead)
        with project_name(tmp_path) as running:
            make_project(client, running)
            assert remove_leftovers(client, tmp_path) == []
            killed.kill()
            killed.wait()

            removed = remove_leftovers(client, tmp_path)
            left = remains(client, dead), remains(client, running)

        # The name is not used any more, and this process lives: the test itself has to remove it.
        (tmp_path / running).touch()
        again = remove_leftovers(client, tmp_path)
    assert (removed, left) == ([dead], ([0, 0, 0, 0], [1, 1, 1, 1]))
    assert (again, remains(client, running)) == ([running], [0, 0, 0, 0])
