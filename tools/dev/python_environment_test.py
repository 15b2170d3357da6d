"""The environment of developers: its content, and that an incomplete one is created again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from libs.docker_runner.sandbox.init import programs_file
from tools.dev.python_environment import (
    EnvironmentNotMade,
    LockfilesDisagree,
    all_pinned,
    copy_init,
    generate_protocol,
    make_environment,
)

PROTO = Path("proto/runtime/v1/coordination.proto")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout whose lockfiles are empty."""
    (tmp_path / "tools").mkdir()
    lock(tmp_path, "requirements.lock", "requirements.txt")
    lock(tmp_path, "tools/lint.lock", "tools/lint-requirements.txt")
    folder = tmp_path / PROTO.parent
    folder.mkdir(parents=True)
    for package in (folder, folder.parent, folder.parent.parent):
        (package / "__init__.py").touch()
    shutil.copy(PROTO, folder)
    return tmp_path


def lock(root: Path, lockfile: str, requirements: str, text: str = "", **versions: str) -> None:
    entries = [
        {"project_name": name, "version": version, "requires_dists": [], "artifacts": []}
        for name, version in versions.items()
    ]
    (root / lockfile).write_text(json.dumps({"locked_resolves": [{"locked_requirements": entries}]}))
    (root / requirements).write_text(text)


def searching(root: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(root)}


def names(root: Path) -> list[str]:
    return [line.strip() for line in all_pinned(root)]


def test_packages_of_tests_and_linters_are_in_it_and_shared_ones_once(root: Path) -> None:
    lock(root, "requirements.lock", "requirements.txt", "a\nc\n# Tests\nb\n", a="1", b="2", c="3")
    lock(root, "tools/lint.lock", "tools/lint-requirements.txt", "c\nd\n", c="3", d="4")

    assert names(root) == ["a==1", "b==2", "c==3", "d==4"]


def test_two_versions_of_one_package_are_an_error(root: Path) -> None:
    lock(root, "requirements.lock", "requirements.txt", "c\n", c="3")
    lock(root, "tools/lint.lock", "tools/lint-requirements.txt", "c\n", c="4")

    with pytest.raises(LockfilesDisagree, match="c==3 and c==4"):
        all_pinned(root)


def test_lockfiles_of_project_agree() -> None:
    assert {"pytest", "mypy", "aiohttp"} <= {line.partition("==")[0] for line in all_pinned(Path())}


def test_compiled_init_is_copied_to_the_packages(tmp_path: Path) -> None:
    copy_init(tmp_path)
    copy_init(tmp_path)

    assert (tmp_path / "the0_init_programs.py").read_bytes() == programs_file().read_bytes()


def test_modules_and_stubs_of_protocol_are_generated_in_their_package(root: Path) -> None:
    generate_protocol(root)

    code = "import proto.runtime.v1.coordination_pb2 as pb; print(pb.__file__)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, env=searching(root), capture_output=True, text=True)
    generated = {path.name for path in (root / PROTO.parent).glob("*_pb2*")}
    assert ran.stdout.strip() == str(root / PROTO.parent / "coordination_pb2.py"), ran.stderr
    assert generated == {"coordination_pb2.py", "coordination_pb2.pyi", "coordination_pb2_grpc.py"}


def test_environment_finds_checkout_from_any_folder_and_is_made_once(root: Path) -> None:
    (root / "hello.py").write_text("print('hello')\n")
    folder = make_environment(root)
    (folder / "kept").touch()

    again = make_environment(root)

    ran = subprocess.run([folder / "bin" / "python", "-m", "hello"], cwd="/", env={}, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("hello\n", "")
    assert (again, (folder / "kept").exists()) == (folder, True)


def test_environment_of_which_a_part_is_missing_is_made_anew(root: Path) -> None:
    folder = make_environment(root)
    (folder / "the0-packages").unlink()
    (folder / "part").touch()

    assert not (make_environment(root) / "part").exists()


def test_command_that_fails_is_named_with_its_output(root: Path) -> None:
    (root / PROTO).write_text("no proto")

    with pytest.raises(EnvironmentNotMade, match=r"generating the protocol failed.*(?s:.*)coordination\.proto"):
        generate_protocol(root)
