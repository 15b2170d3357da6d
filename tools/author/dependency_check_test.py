import json
from pathlib import Path
from typing import Any

import pytest

from tools.author.dependency_check import dependency_findings, fits


@pytest.mark.parametrize(
    ("tag", "does"),
    [
        ("py3-none-any", True),
        ("py2.py3-none-any", True),
        ("cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64", True),
        ("cp311-cp311-manylinux_2_28_aarch64", True),
        ("cp311-cp311-linux_x86_64", True),
        ("cp38-abi3-manylinux2014_x86_64", True),
        ("py38-none-any", True),
        ("cp311-none-any", True),
        ("cp312-cp312-manylinux2014_x86_64", False),
        ("cp312-abi3-manylinux2014_x86_64", False),
        ("cp310-cp310-manylinux2014_x86_64", False),
        ("cp311-cp311t-manylinux2014_x86_64", False),
        ("py312-none-any", False),
        ("cp311-cp311-macosx_11_0_arm64", False),
        ("cp311-cp311-win_amd64", False),
        ("cp311-cp311-musllinux_1_2_x86_64", False),
        ("pp310-pypy310_pp73-manylinux2014_x86_64", False),
        ("nonsense", False),
    ],
)
def test_wheel_fits_by_its_tag(tag: str, does: bool) -> None:
    assert fits(tag) is does


def wheel(folder: Path, name: str, *tags: str, files: tuple[str, ...] = ()) -> None:
    info = folder / "vendor" / f"{name}.dist-info"
    info.mkdir(parents=True)
    (info / "WHEEL").write_text("Wheel-Version: 1.0\n" + "".join(f"Tag: {tag}\n" for tag in tags))
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    for file in files:
        (folder / "vendor" / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / "vendor" / file).write_text("")


def python(folder: Path) -> list[str]:
    return [finding.text for finding in dependency_findings(folder, "python3.11")]


def test_wheel_for_another_interpreter_is_reported_once_with_the_command_that_replaces_it(tmp_path: Path) -> None:
    so = "numpy/core.cpython-312-x86_64-linux-gnu.so"
    wheel(tmp_path, "numpy-2.1.0", "cp312-cp312-manylinux2014_x86_64", files=(so, "numpy/__init__.py"))
    wheel(tmp_path, "idna-3.7", "py3-none-any", files=("idna/core.py",))

    (text,) = python(tmp_path)

    assert text.startswith(f"{tmp_path}/vendor/numpy-2.1.0.dist-info: is a wheel for cp312-cp312-manylinux2014_x86_64")
    assert f"pip install --target {tmp_path}/vendor --upgrade --python-version 3.11 --only-binary=:all:" in text
    assert text.endswith(" numpy==2.1.0")


def test_wheel_of_which_one_tag_fits_is_accepted(tmp_path: Path) -> None:
    wheel(tmp_path, "a-1", "cp311-cp311-manylinux_2_17_x86_64", "cp311-cp311-manylinux2014_x86_64")
    wheel(tmp_path, "b-1", "py2-none-any", "py3-none-any")

    assert python(tmp_path) == []


@pytest.mark.parametrize(
    ("files", "reported"),
    [
        (["a.cpython-312-x86_64-linux-gnu.so"], True),
        (["a.cpython-311-darwin.so"], True),
        (["a.cp311-win_amd64.pyd"], True),
        (["a.cpython-311-x86_64-linux-gnu.so"], False),
        (["a.abi3.so", "liba.so.5", "libb.so"], False),
        (["a.cpython-312-x86_64-linux-gnu.so", "a.cpython-311-x86_64-linux-gnu.so"], False),
    ],
)
def test_compiled_module_without_a_wheel_is_judged_by_its_name(
    tmp_path: Path, files: list[str], reported: bool
) -> None:
    (tmp_path / "vendor" / "pkg").mkdir(parents=True)
    for file in files:
        (tmp_path / "vendor" / "pkg" / file).write_text("")

    assert bool(python(tmp_path)) is reported


def test_folder_without_dependencies_has_no_finding(tmp_path: Path) -> None:
    assert python(tmp_path) == []
    assert node(tmp_path) == []


def module(folder: Path, name: str, files: dict[str, bytes] | None = None, **package: Any) -> None:
    at = folder / "node_modules" / name
    at.mkdir(parents=True)
    (at / "package.json").write_text(json.dumps({"name": name, **package}))
    for file, content in (files or {}).items():
        (at / file).parent.mkdir(parents=True, exist_ok=True)
        (at / file).write_bytes(content)


def node(folder: Path) -> list[str]:
    return [finding.text for finding in dependency_findings(folder, "nodejs20")]


@pytest.mark.parametrize(
    ("libc", "os", "reported"),
    [(["glibc"], ["linux"], True), (["musl"], ["linux"], False), (None, ["darwin"], True), (None, ["!win32"], False)],
)
def test_native_package_for_another_system_is_reported(
    tmp_path: Path, libc: list[str] | None, os: list[str], reported: bool
) -> None:
    module(tmp_path, "rollup", optionalDependencies={"@rollup/native": "1", "@rollup/absent": "1"})
    module(tmp_path, "@rollup/native", os=os, libc=libc)

    found = node(tmp_path)

    assert bool(found) is reported
    assert all("node_modules/rollup: has native code only for others: @rollup/native; remove" in text for text in found)


def test_package_with_one_native_package_that_fits_is_accepted(tmp_path: Path) -> None:
    module(tmp_path, "rollup", optionalDependencies={"glibc-one": "1", "musl-one": "1"})
    module(tmp_path, "glibc-one", os=["linux"], libc=["glibc"])
    module(tmp_path, "musl-one", os=["linux"], libc=["musl"])

    assert node(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x7fELF..\0libm.so.6\0libc.so.6\0", "was compiled for glibc"),
        (b"\xcf\xfa\xed\xfe", "was compiled for another system than Linux"),
        (b"\x7fELF..\0libc.musl-x86_64.so.1\0", ""),
    ],
)
def test_compiled_addon_is_judged_by_its_libraries(tmp_path: Path, content: bytes, reason: str) -> None:
    module(tmp_path, "sqlite", {"build/Release/sqlite.node": content})

    found = node(tmp_path)

    assert [reason in text for text in found] == ([True] if reason else [])
