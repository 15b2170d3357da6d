"""The script `pants` on a machine without the launcher, with stand-ins for Python and for uv."""

import shutil
import subprocess
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
    "ln",
    "mkdir",
    "mv",
    "rm",
    "sed",
    "sha256sum",
    "tr",
    "uname",
    "wc",
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
        for name in ("pants", "pants.toml", "tools/bootstrap/uv.txt"):
            shutil.copy(ROOT / name, folder / "checkout" / name)

    def add_python(self, name: str) -> None:
        self._programs.joinpath(name).symlink_to(self._stand_in)

    def run(self, *, downloads: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.folder / "checkout" / "pants", "--version"],
            env={
                "PATH": str(self._programs),
                "HOME": str(self.folder),
                "RUNTIME_CACHE_DIR": str(self.folder / "cache"),
                "CALLS": str(self._calls),
                "STAND_IN": str(self._stand_in),
                "DOWNLOADS": "work" if downloads else "fail",
            },
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
    assert line.startswith("pants: found no Python 3.9: downloading Python 3.9.")
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
