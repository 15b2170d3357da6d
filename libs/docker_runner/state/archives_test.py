import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.docker_runner.state.archives import StateFile, StateLimits, StateRefused, compress, expand, files_in, tar_of

LIMITS = StateLimits(10_000, files=20)
NAMES = st.binary(min_size=1, max_size=150).filter(lambda name: b"/" not in name and b"\0" not in name)


def tar(*members: tuple[str, bytes, int]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, kind, size in members:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, size
            archive.addfile(info, io.BytesIO(bytes(size)))
    return made.getvalue()


@given(st.dictionaries(NAMES.filter(lambda name: name not in (b".", b"..")), st.binary(max_size=600), max_size=8))
def test_any_names_and_contents_are_read_as_they_were_written(files: dict[bytes, bytes]) -> None:
    archive = tar_of([StateFile(b"f/" + name, content) for name, content in files.items()], 0)

    found = {file.name: file.content for file in files_in(archive, LIMITS)}

    assert found == ({b"f": None} if files else {}) | {b"f/" + name: content for name, content in files.items()}


def test_compressed_archive_expands_to_the_same_bytes(tmp_path: Path) -> None:
    archive = tar_of([StateFile(b"a", b"1" * 5000)], 0)

    packed = compress(io.BytesIO(archive), tmp_path / "packed", LIMITS)
    with (tmp_path / "packed").open("rb") as source:
        content = expand(source, tmp_path / "expanded", LIMITS)

    assert (tmp_path / "expanded").read_bytes() == archive
    assert (content.size, content.files, content.sha256) == (5000, 1, packed.sha256)
    assert packed.archive_bytes == (tmp_path / "packed").stat().st_size


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (tar(("../x", tarfile.REGTYPE, 0)), "not a path below"),
        (tar(("/x", tarfile.REGTYPE, 0)), "not a path below"),
        (tar(("x", tarfile.SYMTYPE, 0)), "symbolic link"),
        (tar(("x", tarfile.LNKTYPE, 0)), "hard link"),
        (tar(("x", tarfile.FIFOTYPE, 0)), "named pipe"),
        (tar(("x", tarfile.CHRTYPE, 0)), "character device"),
        (tar(("x", tarfile.REGTYPE, 1), ("x", tarfile.REGTYPE, 1)), "twice"),
        (tar(("y/x", tarfile.REGTYPE, 1)), "before its folder"),
        (tar(("x", tarfile.REGTYPE, 10_001)), "more than 10000 bytes"),
        (tar(*((f"{n}", tarfile.REGTYPE, 0) for n in range(21))), "more than 20 files"),
        (tar(("x" * 1025, tarfile.REGTYPE, 0)), "too long a path"),
        (tar(("/".join("x" * 17), tarfile.REGTYPE, 0)), "too long a path"),
        (tar(("x", tarfile.REGTYPE, 600))[:1000], "damaged"),
        (b"", "damaged"),
        (b"no tar" * 200, "damaged"),
    ],
)
def test_archive_that_is_no_state_is_refused(archive: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(StateRefused, match=reason):
        compress(io.BytesIO(archive), tmp_path / "packed", LIMITS)


def test_bomb_is_refused_before_it_is_expanded(tmp_path: Path) -> None:
    large = StateLimits(100_000_000)
    compress(io.BytesIO(tar(("x", tarfile.REGTYPE, 50_000_000))), tmp_path / "bomb", large)

    with (tmp_path / "bomb").open("rb") as source, pytest.raises(StateRefused, match="STATE_LIMIT_MB"):
        expand(source, tmp_path / "expanded", LIMITS)

    assert (tmp_path / "expanded").stat().st_size < 1_000_000


def test_truncated_compressed_archive_is_refused(tmp_path: Path) -> None:
    compress(io.BytesIO(tar(("x", tarfile.REGTYPE, 600))), tmp_path / "packed", LIMITS)
    half = (tmp_path / "packed").read_bytes()[:-20]

    with pytest.raises(StateRefused):
        expand(io.BytesIO(half), tmp_path / "expanded", LIMITS)
