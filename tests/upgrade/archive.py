"""Save the code of a release for the tests of upgrades, out of the history of this checkout.

    python -m tests.upgrade.archive REF [--check]

The archive has what runs in production, libs, services and proto, without tests; the compiled init is the present one.
It is checked in, since a shallow clone and the sandbox of a test have no history. REF is the newest tag; its archive
replaces the former one. With --check nothing is written; the exit code is 1 if the archive is another one.
"""

import argparse
import io
import lzma
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

RELEASES = Path(__file__).parent / "releases"
SUFFIX = ".tar.xz"
_FOLDERS = ("libs", "proto", "services")
_LEFT_OUT = ("_test.py", "/BUILD", "/conftest.py", ".md")


def newest() -> Path:
    """Return the archive of the release that the tests start from."""
    (path,) = RELEASES.glob(f"*{SUFFIX}")
    return path


def packed(checkout: Path, ref: str) -> bytes:
    """Return the code of *ref* as a TAR archive.

    Raises:
        subprocess.CalledProcessError: the history of *checkout* has no such commit.
    """
    archive = _git(checkout, "archive", "--format=tar", ref, *_FOLDERS)
    packed_tar = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(archive)) as whole,
        tarfile.open(fileobj=packed_tar, mode="w", format=tarfile.USTAR_FORMAT) as kept,
    ):
        for member in whole:
            if member.isfile() and not member.name.endswith(_LEFT_OUT):
                kept.addfile(member, whole.extractfile(member))
    return packed_tar.getvalue()


def _git(checkout: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", "-C", checkout, *arguments], stdout=subprocess.PIPE, check=True).stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ref", help="a tag, or a commit")
    parser.add_argument("--check", action="store_true", help="compare with the archive that is there")
    options = parser.parse_args(arguments)
    content = packed(RELEASES.parents[2], options.ref)
    path = RELEASES / f"{options.ref}{SUFFIX}"
    if options.check:
        if path.is_file() and lzma.decompress(path.read_bytes()) == content:
            return 0
        print(f"{path} is not the archive of {options.ref}", file=sys.stderr)
        return 1
    for former in RELEASES.glob(f"*{SUFFIX}"):
        former.unlink()
    RELEASES.mkdir(exist_ok=True)
    path.write_bytes(lzma.compress(content, preset=9))
    print(f"{path}: {path.stat().st_size // 1024} KB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
