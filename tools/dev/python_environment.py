"""The Python environment of developers: `.venv` in the checkout, for editors, debuggers, pytest and benchmarks.

It has all packages of both lockfiles (runtime, tests, linters) and finds the checkout's modules from any
folder. The modules and stubs of the .proto files are generated beside them, since editors look for them there, and the
module with the compiled init of containers is copied to the packages.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from libs.core.errors import Retryable, UserError
from libs.docker_runner.sandbox.init import programs_file
from tools.bootstrap.locked_requirements import pinned

_LOCKFILES = {"requirements.lock": "requirements.txt", "tools/lint.lock": "tools/lint-requirements.txt"}
_PROTOS = "proto/runtime/v1"
_MARKER = "the0-packages"
_OWN_VARIABLES = ("PYTHONPATH", "PYTHONSAFEPATH", "PYTHONPYCACHEPREFIX", "PIP_REQUIRE_VIRTUALENV")
_SHOWN_LINES = 20


class LockfilesDisagree(UserError):
    """Both lockfiles name one package, in different versions."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(
            f"the lockfiles disagree: {first} and {second}; run `./pants generate-lockfiles` to bring both up to date"
        )


class EnvironmentNotMade(Retryable):
    """A command that creates the environment failed."""

    def __init__(self, what: str, output: str) -> None:
        last = "\n".join(output.splitlines()[-_SHOWN_LINES:])
        super().__init__(f"{what} failed; check access to the Python package index. Last lines of output:\n{last}")


def make_environment(root: Path) -> Path:
    """Create or update the environment of the checkout at *root* and return its folder. May be repeated.

    Raises:
        LockfilesDisagree: no environment can have the packages of both lockfiles.
        EnvironmentNotMade: a package cannot be installed; the next call starts again.
    """
    folder = root / ".venv"
    lines = all_pinned(root)
    text = "".join(f"{line}\n" for line in lines)
    digest = hashlib.sha256(f"{sys.version}\n{text}".encode()).hexdigest()
    marker = folder / _MARKER
    if not marker.exists() or marker.read_text() != digest:
        without = [] if lines else ["--without-pip"]
        _run("making the environment", [sys.executable, "-m", "venv", "--clear", *without, str(folder)], root)
        if lines:
            _install(folder, text, root)
        (_site_packages(folder) / "the0_checkout.pth").write_text(f"{root}\n")
        # Written last, so that an incomplete environment is created again.
        marker.write_text(digest)
    generate_protocol(root)
    copy_init(_site_packages(folder))
    return folder


def all_pinned(root: Path) -> list[str]:
    """Return the requirements of both lockfiles, each package once, with digests.

    Raises:
        LockfilesDisagree: a package has two versions.
    """
    found: dict[str, str] = {}
    for lockfile, requirements in _LOCKFILES.items():
        lock, wanted = (root / lockfile).read_text(), (root / requirements).read_text()
        for line in pinned(lock, wanted, tests=True):
            name_and_version = line.partition(" ")[0]
            name = name_and_version.partition("==")[0]
            earlier = found.setdefault(name, line).partition(" ")[0]
            if earlier != name_and_version:
                raise LockfilesDisagree(earlier, name_and_version)
    return [found[name] for name in sorted(found)]


def generate_protocol(root: Path) -> None:
    """Generate the modules of the .proto files, with stubs for editors and type checkers, in their package."""
    protos = sorted(str(path.relative_to(root)) for path in (root / _PROTOS).glob("*.proto"))
    outputs = ["--python_out=.", "--pyi_out=.", "--grpc_python_out=."]
    _run("generating the protocol", [sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, *protos], root)


def copy_init(packages: Path) -> None:
    """Copy the module with the compiled init, which ./runtime has made, to the folder *packages*."""
    made = programs_file()
    wanted = packages / made.name
    if made != wanted.resolve():
        shutil.copyfile(made, wanted)


def _site_packages(folder: Path) -> Path:
    (found,) = folder.glob("lib/python3*/site-packages")
    return found


def _install(folder: Path, requirements: str, root: Path) -> None:
    listed = folder / "requirements.txt"
    listed.write_text(requirements)
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--no-compile"]
    python = str(folder / "bin" / "python")
    _run("installing the Python packages", [python, "-m", "pip", "install", *options, "-r", str(listed)], root)


def _run(what: str, command: list[str], folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in _OWN_VARIABLES}
    ran = subprocess.run(  # noqa: S603 - commands of ours
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if ran.returncode != 0:
        raise EnvironmentNotMade(what, ran.stdout)
