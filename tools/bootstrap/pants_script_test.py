"""The script `pants` on a machine without the launcher, with stand-ins for Python and for uv."""

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What the script calls besides Python.
PROGRAMS = (
    "bash",
    "cat",
    "dirname",
    "grep",
    "head",
    "id",
    "ln",
    "mkdir",
    "mv",
    "rm",
    "sed",
    "sha256sum",
    "tail",
    "tr",
    "uname",
    "wc",
)
BOOTSTRAP = ("common.sh", "debian_python39.sh", "debian_python39.sha256", "pants.txt", "pex.txt", "uv.txt")

INIT = "libs/docker_runner/sandbox/init"
# What `runtime` looks at before it needs a Python.
DIGESTED = (
    "requirements.lock",
    "requirements.txt",
    "proto/runtime/v1/a.proto",
    *(f"{INIT}/{name}" for name in ("native.lock", "main.c", "main.h", "build.py")),
)

# Python, pip, uv and Pants in one: each call is recorded. Its name selects the Python version.
STAND_IN = """\
#!/bin/bash
echo "${0##*/} $*" >> "$CALLS"
case "${0##*/} $*" in
  *"-m pex"*) while [ "$1" != -o ]; do shift; done; echo pex > "$2" ;;
  "uv python install"*)
    [ "$DOWNLOADS" = work ] || { echo "error: Failed to install cpython" >&2; exit 1; }
    while [ "$1" != --install-dir ]; do shift; done
    mkdir -p "$2/cpython-$3-any/bin" && ln -s "$STAND_IN" "$2/cpython-$3-any/bin/python3.9" ;;
  python3.9\\ -c*) ;;
  *\\ -c*"(3, 9)"*) exit 1 ;;
  *\\ -c*) ;;
  *"-m venv"*) mkdir -p "$3/bin" && ln -s "$STAND_IN" "$3/bin/python" && ln -s "$STAND_IN" "$3/bin/uv" ;;
esac
"""


class Machine:
    """A checkout and a PATH with the Pythons of those names alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._calls = folder / "calls"
        self._calls.touch()
        self._stand_in = folder / "stand-in"
        self._stand_in.write_text(STAND_IN)
        self._stand_in.chmod(0o755)
        self._programs = folder / "bin"
        self._programs.mkdir()
        for name in PROGRAMS:
            self._programs.joinpath(name).symlink_to(shutil.which(name) or pytest.fail(f"{name} is missing"))
        checkout = folder / "checkout" / "tools" / "bootstrap"
        checkout.mkdir(parents=True)
        for name in ("pants", "pants.toml", *(f"tools/bootstrap/{file}" for file in BOOTSTRAP)):
            shutil.copy(ROOT / name, folder / "checkout" / name)

    def add_python(self, name: str) -> None:
        self._programs.joinpath(name).symlink_to(self._stand_in)

    def offer_debian_packages(self) -> None:
        script = self.folder / "checkout" / "tools" / "bootstrap" / "debian_python39.sh"
        script.write_text('#!/bin/bash\nmkdir -p "$1/bin" && ln -s "$STAND_IN" "$1/bin/python3.9"\n')

    def run(self, *, downloads: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.folder / "checkout" / "pants", "--version"],
            env={
                "PATH": str(self._programs),
                "HOME": str(self.folder),
                "RUNTIME_CACHE_DIR": str(self.folder / "cache"),
                "CALLS": str(self._calls),
                "STAND_IN": str(self._stand_in),
                "DOWNLOADS": "work" if downloads else "fail",
            }
            | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def calls(self, beginning: str) -> list[str]:
        return [line for line in self._calls.read_text().splitlines() if line.startswith(beginning)]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_pants_without_python_39_downloads_it_and_prints_one_line(machine: Machine) -> None:
    machine.add_python("python3")

    process = machine.run()

    assert process.returncode == 0, process.stderr
    (line,) = [line for line in process.stderr.splitlines() if "Python 3.9" in line]
    assert line.startswith("pants: found no Python 3.9: downloading it into ")
    assert str(machine.folder / "cache") in line
    assert machine.calls("python -m pants --version")


def test_downloaded_python_39_makes_the_environment_of_pants(machine: Machine) -> None:
    machine.add_python("python3")

    machine.run()

    makes = machine.calls("python3.9 -m venv")
    assert [Path(call.split()[-1]).name.split("-")[0] for call in makes] == ["pants", "pex"]


def test_uv_is_installed_by_digest(machine: Machine) -> None:
    machine.add_python("python3")

    machine.run()

    (install,) = [call for call in machine.calls("python -m pip install") if "uv.txt" in call]
    assert "--require-hashes" in install
    pins = (ROOT / "tools" / "bootstrap" / "uv.txt").read_text()
    assert pins.count("--hash=sha256:") == 4


def test_pants_and_its_pex_tool_are_installed_by_digest_in_the_versions_of_the_configuration(machine: Machine) -> None:
    machine.add_python("python3.9")

    machine.run()

    installs = machine.calls("python -m pip install")
    assert [Path(call.split()[-1]).name for call in installs] == ["pants.txt", "pex.txt"]
    assert all("--require-hashes" in call for call in installs)
    configuration = tomllib.loads((ROOT / "pants.toml").read_text())
    pants, pex = (ROOT / "tools" / "bootstrap" / name for name in ("pants.txt", "pex.txt"))
    assert f"pantsbuild-pants=={configuration['GLOBAL']['pants_version']} " in pants.read_text()
    assert f"pex=={configuration['pex-cli']['version'].removeprefix('v')} " in pex.read_text()


@pytest.mark.parametrize("pythons", [["python3"], []])
def test_where_uv_gets_nothing_the_packages_of_debian_are_used_in_silence(machine: Machine, pythons: list[str]) -> None:
    for name in pythons:
        machine.add_python(name)
    machine.offer_debian_packages()

    process = machine.run(downloads=False)

    assert process.returncode == 0, process.stderr
    assert "error" not in process.stderr
    assert machine.calls("python -m pants --version")


def test_machine_that_is_not_debian_is_not_offered_packages_of_debian(machine: Machine) -> None:
    release = machine.folder / "os-release"
    release.write_text("ID=ubuntu\nID_LIKE=debian\n")

    process = subprocess.run(
        [machine.folder / "checkout/tools/bootstrap/debian_python39.sh", machine.folder / "python"],
        env={"PATH": os.environ["PATH"], "OS_RELEASE": str(release)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (process.returncode, process.stderr) == (1, "the packages of Debian 11 are for Debian on x86-64\n")


def test_folders_with_spaces_are_used_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "a user's home"
    folder.mkdir()
    machine = Machine(folder)
    machine.add_python("python3")

    process = machine.run()

    assert process.returncode == 0, process.stderr
    assert machine.calls("python -m pants --version")
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_python_39_that_is_named_may_have_spaces_in_its_path(machine: Machine) -> None:
    named = machine.folder / "my pythons" / "python3.9"
    named.parent.mkdir()
    named.symlink_to(machine.folder / "stand-in")

    process = machine.run(downloads=False, PYTHON39=str(named))

    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("script", ["pants", "runtime"])
@pytest.mark.parametrize(
    ("environment", "folder"),
    [({"HOME": "/proc/1"}, "/proc/1/.cache/the0-runtime"), ({"RUNTIME_CACHE_DIR": "/proc/x"}, "/proc/x"), ({}, "HOME")],
)
def test_cache_that_cannot_be_written_is_an_error_with_the_remedy(
    tmp_path: Path, script: str, environment: dict[str, str], folder: str
) -> None:
    process = subprocess.run(
        [ROOT / script, "--version"],
        env={"PATH": "/usr/bin:/bin", "RUNTIME_PANTS_FROM_INDEX": "1"} | environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert process.returncode != 0
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"{script}: cannot write to the cache folder ")
    assert folder in line
    assert line.endswith("remedy: set RUNTIME_CACHE_DIR=/path/to/a/writable/folder")


def test_runtime_without_a_python_says_what_to_install(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in (*PROGRAMS, "readlink"):
        programs.joinpath(name).symlink_to(shutil.which(name) or pytest.fail(f"{name} is missing"))
    checkout = tmp_path / "a checkout"
    for file in DIGESTED:
        checkout.joinpath(file).parent.mkdir(parents=True, exist_ok=True)
        checkout.joinpath(file).touch()
    for file in ("runtime", "tools/bootstrap/common.sh"):
        checkout.joinpath(file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, checkout / file)

    process = subprocess.run(
        [checkout / "runtime", "setup"],
        env={"PATH": str(programs), "RUNTIME_CACHE_DIR": str(tmp_path / "a cache")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert process.returncode == 3
    last = process.stderr.splitlines()[-1]
    assert last.startswith("runtime: needs Python 3.11, 3.12, 3.13 or 3.14 with its venv module; remedy: ")
    assert "apt-get install python3 python3-venv" in last
    assert "RUNTIME_PYTHON=" in last


def test_second_run_downloads_nothing(machine: Machine) -> None:
    machine.add_python("python3")

    machine.run()
    second = machine.run(downloads=False)

    assert (second.returncode, second.stderr) == (0, "")
    assert len(machine.calls("uv ")) == 1


def test_downloaded_python_39_is_used_again_where_the_environment_of_pants_is_gone(machine: Machine) -> None:
    machine.add_python("python3")
    machine.run()
    for path in (machine.folder / "cache").glob("pants-*"):
        shutil.rmtree(path)

    second = machine.run(downloads=False)

    assert second.returncode == 0, second.stderr
    assert len(machine.calls("uv ")) == 1


def test_installed_python_39_is_used_and_nothing_downloaded(machine: Machine) -> None:
    machine.add_python("python3")
    machine.add_python("python3.9")

    process = machine.run(downloads=False)

    assert process.returncode == 0, process.stderr
    assert machine.calls("uv ") == []


@pytest.mark.parametrize("pythons", [["python3"], []])
def test_where_no_python_39_can_be_had_the_error_names_both_remedies(machine: Machine, pythons: list[str]) -> None:
    for name in pythons:
        machine.add_python(name)

    process = machine.run(downloads=False)

    assert process.returncode == 1
    last = process.stderr.splitlines()[-1]
    assert "install the launcher" in last
    assert "PYTHON39=/path/to/python3.9" in last
    assert machine.calls("python -m pants") == []


def test_launcher_is_used_before_anything_else(machine: Machine) -> None:
    machine.add_python("python3")
    launcher = machine.folder / "bin" / "pants"
    launcher.write_text("#!/bin/bash\necho launcher $*\n")
    launcher.chmod(0o755)

    assert machine.run().stdout == "launcher --version\n"
    assert not (machine.folder / "cache").exists()
