"""Run build steps in containers of the bot's image, and cache what they make.

Files go in and out as archives over the engine's API, so that neither the user of the sandbox nor a remote engine needs
access to folders of this machine.
"""

import asyncio
import importlib.util
import io
import os
import secrets
import shutil
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import docker
from docker.errors import DockerException, ImageNotFound, NotFound
from docker.utils.socket import STDOUT, frames_iter

from libs.core.errors import Retryable
from libs.docker_runner.code.archives import extract
from libs.docker_runner.engine.users import UserRange
from libs.docker_runner.errors import ArchiveRejected
from tools.author.dependencies.environment import FILES, BuildEnvironment
from tools.author.dependencies.plan import Step
from tools.bots.errors import BotFolderInvalid
from tools.debian.packages import Report
from tools.images.stand_ins import LABEL

_BUILD_SECONDS = 1800
_SILENCE_SECONDS = 900
_TOOL_MISSING = 97
_EXIT = "the0-build-exit "
_UNUSED_SECONDS = 30 * 86_400.0
_LABEL = "the0.build"
# The exit code comes as the last line, since the container is removed when it ends, also if this process is killed.
_SCRIPT = """
export HOME=/tmp
mkdir -p /tmp/src /tmp/out
(set -e
{script}
cd /tmp/out && tar -cf - .)
echo "{exit}$?" >&2
"""


class BuildFailed(BotFolderInvalid):
    """A step failed; the message has its last lines and the remedy."""


class BuildUnavailable(Retryable):
    """The engine cannot run a step now."""


class Builder:
    """Builds in containers of one image.

    Args:
        cache: the folder of outputs; one that was not used for a month is removed.
        report: called with each line of progress.
        label: the value of the label of its containers.
    """

    def __init__(
        self,
        engine_url: str,
        image: str,
        cache: Path,
        environment: BuildEnvironment,
        report: Report,
        label: str = "true",
    ) -> None:
        self._url = engine_url
        self._image = image
        self._cache = cache
        self._environment = environment
        self._report = report
        self._label = label

    async def output(self, step: Step, tool: Path | None = None) -> Path:
        """Return the folder with the output of *step*, which is not built again if it is cached.

        Args:
            tool: the output of another step, which this one has in ``/tmp/tool``.

        Raises:
            BuildFailed: the author must correct it, or name a mirror.
            BuildUnavailable: retry later.
        """
        name = f"the0-build-{secrets.token_hex(6)}"
        try:
            return await asyncio.to_thread(self._output, step, tool, name)
        except asyncio.CancelledError:
            await asyncio.shield(asyncio.to_thread(self._kill, name))
            raise
        except (DockerException, OSError) as error:
            raise BuildUnavailable(f"the engine cannot build {step.what}: {error}") from error

    def _output(self, step: Step, tool: Path | None, name: str) -> Path:
        client: Any = docker.from_env(
            environment={**os.environ, "DOCKER_HOST": self._url}, timeout=_SILENCE_SECONDS
        ).api
        try:
            folder = self._cache / step.key(self._image_id(client))
            if folder.is_dir():
                os.utime(folder)
                return folder
            self._cache.mkdir(parents=True, exist_ok=True)
            self._report(f"building {step.what} in {self._image}")
            archive = self._cache / f".{name}.tar"
            try:
                self._build(client, step, tool, name, archive)
                with suppress(FileExistsError):  # another process has built the same
                    extract(archive, folder, step.what)
            except ArchiveRejected as error:
                raise BuildFailed(f"{step.what} cannot be deployed: {error}; {step.remedy}") from error
            finally:
                archive.unlink(missing_ok=True)
            self._remove_unused()
            return folder
        finally:
            client.close()

    def _image_id(self, client: Any) -> str:
        try:
            return str(client.inspect_image(self._image)["Id"])
        except ImageNotFound:
            self._report(f"{self._image}: pulling")
            client.pull(self._image)
            return str(client.inspect_image(self._image)["Id"])

    def _build(self, client: Any, step: Step, tool: Path | None, name: str, archive: Path) -> None:
        inputs = [("src", step.files), (Path(FILES).name, self._environment.files)]
        if tool is not None:
            inputs.append(("tool", dict(_contents(tool))))
        code: int | None = _TOOL_MISSING
        if not (step.tool and LABEL in (client.inspect_image(self._image)["Config"].get("Labels") or {})):
            code = self._run(client, step, inputs, name, archive)
        if code == _TOOL_MISSING and step.tool:
            found = tool_of_this_machine(step.tool)
            if found is None:
                raise BuildFailed(
                    f"{step.what} cannot be built: the image {self._image} has no {step.tool}, and this machine "
                    f"neither; install {step.tool} here, or use another image"
                )
            code = self._run(client, step, [*inputs, ("tool", found)], f"{name}-2", archive)
        if code != 0:
            reason = "it took too long" if code is None else f"exit code {code}, the lines above show why"
            raise BuildFailed(f"{step.what} cannot be built ({reason}); {step.remedy}")

    def _run(
        self, client: Any, step: Step, inputs: list[tuple[str, Mapping[str, bytes]]], name: str, archive: Path
    ) -> int | None:
        """Run *step* once; return its exit code, None if it was ended before."""
        user = UserRange().first
        script = _SCRIPT.format(script=step.script, exit=_EXIT)
        created = client.create_container(
            self._image,
            name=name,
            command=["timeout", str(_BUILD_SECONDS), "sh", "-c", script],
            entrypoint=[],
            user=f"{user}:{user}",
            working_dir="/tmp",  # noqa: S108 - inside the container
            environment=dict(self._environment.variables),
            labels={_LABEL: self._label},
            host_config=client.create_host_config(
                auto_remove=True,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges:true"],
                pids_limit=1024,
                network_mode="host" if self._environment.needs_host_network else None,
                mounts=[
                    docker.types.Mount(path, path, type="bind", read_only=True) for path in self._environment.mounts
                ],
                log_config={"Type": "none"},
            ),
        )
        try:
            for folder, files in inputs:
                client.put_archive(created, "/tmp", _tar(folder, files, user))  # noqa: S108 - inside the container
            socket = client.attach_socket(created, {"stdout": 1, "stderr": 1, "stream": 1})
            try:
                client.start(created)
                with archive.open("wb") as file:
                    frames = frames_iter(socket, tty=False)  # type: ignore[no-untyped-call]
                    return self._followed(frames, file)
            finally:
                # The SDK leaves the connection of an attached stream open.
                connection = getattr(socket, "_sock", None)
                socket.close()
                if connection is not None:
                    connection.close()
        except BaseException:
            self._kill(name)
            raise

    def _followed(self, frames: Iterator[tuple[int, bytes]], archive: BinaryIO) -> int | None:
        """Write the output to *archive*, and report the progress; return the exit code."""
        rest = ""
        code = None
        for stream, data in frames:
            if stream == STDOUT:
                archive.write(data)
                continue
            *whole, rest = (rest + data.decode(errors="replace")).split("\n")
            for line in whole:
                if line.startswith(_EXIT) and line.removeprefix(_EXIT).isdecimal():
                    code = int(line.removeprefix(_EXIT))
                elif line.strip():
                    self._report(f"  {line.rstrip()}")
        return code

    def _kill(self, name: str) -> None:
        """Remove the containers of a build that is given up."""
        client: Any = docker.from_env(environment={**os.environ, "DOCKER_HOST": self._url}).api
        try:
            for one in (name, f"{name}-2"):
                with suppress(NotFound):
                    client.remove_container(one, force=True, v=True)
        except DockerException as error:
            # It ends by its time limit, and is removed then.
            self._report(f"a build could not be stopped: {error}")
        finally:
            client.close()

    def _remove_unused(self) -> None:
        for folder in self._cache.iterdir():
            if time.time() - folder.stat().st_mtime > _UNUSED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _tar(folder: str, files: Mapping[str, bytes], user: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        parents = {str(parent) for name in files for parent in Path(folder, name).parents} | {folder}
        for name in sorted(parents - {"."}):
            archive.addfile(_entry(name, user, kind=tarfile.DIRTYPE, mode=0o755))
        for name, content in files.items():
            entry = _entry(f"{folder}/{name}", user, mode=0o755)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _entry(name: str, user: int, *, mode: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.uid, entry.gid = kind, mode, user, user
    return entry


def _contents(folder: Path, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield prefix + path.relative_to(folder).as_posix(), path.read_bytes()


def tool_of_this_machine(tool: str) -> dict[str, bytes] | None:
    """Return the files of pip or npm, which are the same on every system; None if they are not here."""
    if tool == "npm":
        program = shutil.which("npm")
        root = Path(program).resolve().parents[1] if program is not None else None
        if root is None or not (root / "bin" / "npm-cli.js").is_file():
            return None
        return dict(_contents(root, "npm/"))
    library = Path(sys.base_prefix) / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    wheels = [
        *(library / "ensurepip" / "_bundled").glob("pip-*.whl"),
        *Path("/usr/share/python-wheels").glob("pip-*.whl"),
    ]
    if wheels:
        return {"pip.zip": wheels[0].read_bytes()}
    spec = importlib.util.find_spec("pip")
    if spec is None or spec.origin is None:
        return None
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in _contents(Path(spec.origin).parent, "pip/"):
            archive.writestr(name, content)
    return {"pip.zip": buffer.getvalue()}
