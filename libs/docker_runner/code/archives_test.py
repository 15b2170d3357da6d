"""Archives: what is taken, and that everything else is refused whole, with the entry and the reason."""

import gzip
import io
import os
import resource
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libs.docker_runner.code.archives import DEFAULT_LIMITS, ArchiveLimits, Extracted, extract
from libs.docker_runner.errors import ArchiveRejected

Member = tuple[str | tarfile.TarInfo, bytes]


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(*members: Member, mode: str = "w:gz", **options: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, **options) as archive:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def tar_special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


def zip_mode(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder below a watched one: nothing may appear beside it."""
    inside = tmp_path / "outer" / "cache"
    inside.mkdir(parents=True)
    yield inside
    assert sorted(os.listdir(tmp_path / "outer")) == ["cache"]


def unpack(folder: Path, content: bytes, limits: ArchiveLimits = DEFAULT_LIMITS) -> Path:
    (folder / "archive").write_bytes(content)
    extract(folder / "archive", folder / "tree", "bots/one", limits)
    return folder / "tree"


def refusal(folder: Path, content: bytes, limits: ArchiveLimits = DEFAULT_LIMITS) -> ArchiveRejected:
    (folder / "archive").write_bytes(content)
    with pytest.raises(ArchiveRejected) as caught:
        extract(folder / "archive", folder / "tree", "bots/one", limits)
    assert os.listdir(folder) == ["archive"], "a refused archive leaves nothing behind"
    return caught.value


# --- what is taken


@pytest.mark.parametrize("pack", [zipped, tarred], ids=["zip", "tar.gz"])
def test_an_archive_of_files_in_folders_comes_out_as_it_is(folder: Path, pack: object) -> None:
    content = pack(("main.py", b"print(1)"), ("lib/deep/er.py", b"x = 2"), ("lib/empty.txt", b""))  # type: ignore[operator]

    tree = unpack(folder, content)

    assert {str(p.relative_to(tree)): p.read_bytes() for p in tree.rglob("*") if p.is_file()} == {
        "main.py": b"print(1)",
        "lib/deep/er.py": b"x = 2",
        "lib/empty.txt": b"",
    }


def test_a_plain_tar_is_taken_too(folder: Path) -> None:
    assert (unpack(folder, tarred(("main.py", b"1"), mode="w")) / "main.py").read_bytes() == b"1"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_read_in_every_dialect_of_tar(folder: Path, form: int) -> None:
    name = "/".join(["a" * 50] * 4) + "/main.py"

    assert (unpack(folder, tarred((name, b"1"), format=form)) / name).read_bytes() == b"1"


def test_names_outside_ascii_survive_in_zip_and_tar(folder: Path, tmp_path: Path) -> None:
    assert (unpack(folder, zipped(("größe 🚀.py", b"1"))) / "größe 🚀.py").exists()
    (folder / "tree").rename(tmp_path / "moved")
    assert (unpack(folder, tarred(("größe 🚀.py", b"1"))) / "größe 🚀.py").exists()


def test_modes_are_reduced_to_readable_and_executable(folder: Path) -> None:
    setuid = tarfile.TarInfo("bin/tool")
    setuid.mode = 0o6711
    private = tarfile.TarInfo("main.py")
    private.mode = 0o600
    shut = tar_special("shut", tarfile.DIRTYPE)
    shut.mode = 0o1000

    tree = unpack(folder, tarred((setuid, b"x"), (private, b"y"), (shut, b"")))

    modes = {name: (tree / name).stat().st_mode & 0o7777 for name in ["", "bin", "bin/tool", "main.py", "shut"]}
    assert modes == {"": 0o755, "bin": 0o755, "bin/tool": 0o755, "main.py": 0o644, "shut": 0o755}


def test_links_within_the_folder_are_kept(folder: Path) -> None:
    tree = unpack(
        folder,
        tarred(
            ("node_modules/tool/cli.js", b"1"),
            (tar_special("node_modules/.bin/tool", tarfile.SYMTYPE, "../tool/cli.js"), b""),
            (tar_special("copy.js", tarfile.LNKTYPE, "node_modules/tool/cli.js"), b""),
        ),
    )

    assert os.readlink(tree / "node_modules/.bin/tool") == "../tool/cli.js"
    assert (tree / "copy.js").read_bytes() == b"1"


def test_folders_that_a_zip_names_come_out_empty_or_with_their_files(folder: Path) -> None:
    by_mode = zip_mode("by-mode", 0o040700)
    tree = unpack(folder, zipped(("lib/", b""), ("lib/a.py", b"1"), ("empty/", b""), (by_mode, b""), ("./lib/", b"")))

    found = {str(path.relative_to(tree)): path.is_dir() for path in tree.rglob("*")}
    assert found == {"lib": True, "lib/a.py": False, "empty": True, "by-mode": True}
    assert {path.stat().st_mode & 0o7777 for path in tree.rglob("*") if path.is_dir()} == {0o755}


def test_executable_bit_of_a_zip_is_kept(folder: Path) -> None:
    tree = unpack(folder, zipped((zip_mode("tool", 0o100755), b"1"), (zip_mode("main.py", 0o100644), b"1")))

    assert [(tree / name).stat().st_mode & 0o7777 for name in ("tool", "main.py")] == [0o755, 0o644]


def test_link_in_a_zip_is_kept(folder: Path) -> None:
    tree = unpack(folder, zipped(("d/main.py", b"1"), (zip_mode("l", 0o120777), b"d/main.py")))

    assert os.readlink(tree / "l") == "d/main.py"


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1024, 70_000])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_file_of_any_size_in_a_tar_is_followed_by_the_next_entry(folder: Path, form: int, size: int) -> None:
    content = os.urandom(size)
    packed = tarred(("a.bin", content), (tar_special("d", tarfile.DIRTYPE), b""), ("b.py", b"1"), format=form)

    tree = unpack(folder, packed)

    assert (tree / "a.bin").read_bytes() == content
    assert (tree / "d").is_dir()
    assert (tree / "b.py").read_bytes() == b"1"


def test_size_in_an_extended_header_counts_and_not_the_one_beside_it(folder: Path) -> None:
    extended = tarfile.TarInfo("main.py")
    extended.pax_headers = {"size": "600"}
    header = extended.tobuf(tarfile.PAX_FORMAT)
    packed = header + b"x" * 600 + bytes(424) + tarred(("b.py", b"1"), mode="w")

    tree = unpack(folder, gzip.compress(packed))

    assert (tree / "main.py").read_bytes() == b"x" * 600
    assert (tree / "b.py").read_bytes() == b"1"


def test_size_in_binary_is_read(folder: Path) -> None:
    header = bytearray(tarfile.TarInfo("main.py").tobuf())
    header[124:136] = b"\x80" + (600).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)

    assert (
        unpack(folder, gzip.compress(bytes(header) + b"x" * 600 + bytes(424 + 1024))) / "main.py"
    ).stat().st_size == 600


@pytest.mark.parametrize(
    "kind", [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE], ids=["folder", "link", "hard link"]
)
def test_entry_of_a_tar_that_is_no_file_and_claims_content_is_refused(folder: Path, kind: bytes) -> None:
    entry = tar_special("e", kind, "a.py")
    entry.size = 512
    packed = tarred(("a.py", b"1"), mode="w")[:1024] + entry.tobuf() + bytes(512) + bytes(1024)

    error = refusal(folder, gzip.compress(packed))

    assert (error.entry.strip("/"), "declares 512 bytes of content" in error.reason) == ("e", True)


def test_folder_of_a_zip_that_has_content_is_refused(folder: Path) -> None:
    assert "folder with content" in refusal(folder, zipped(("d/", b"1"))).reason


@pytest.mark.parametrize("pack", [zipped, tarred], ids=["zip", "tar.gz"])
def test_disk_that_is_full_while_it_is_unpacked_is_no_fault_of_the_archive(folder: Path, pack: object) -> None:
    (folder / "archive").write_bytes(pack(("main.py", os.urandom(200_000))))  # type: ignore[operator]
    _, hard = soft_and_hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            extract(folder / "archive", folder / "tree", "bots/one")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, soft_and_hard)

    assert os.listdir(folder) == ["archive"]
    extract(folder / "archive", folder / "tree", "bots/one")


def test_written_files_and_bytes_are_counted(folder: Path) -> None:
    (folder / "archive").write_bytes(
        tarred(("a", b"12"), ("d/b", b"345"), (tar_special("c", tarfile.LNKTYPE, "a"), b""))
    )

    assert extract(folder / "archive", folder / "tree", "bots/one") == Extracted(files=3, total_bytes=5)


def test_a_single_top_folder_is_not_stripped(folder: Path) -> None:
    assert (unpack(folder, zipped(("mybot/main.py", b"1"))) / "mybot/main.py").exists()


def test_an_existing_destination_is_left_alone(folder: Path) -> None:
    unpack(folder, zipped(("main.py", b"first")))
    (folder / "archive").write_bytes(zipped(("main.py", b"second")))

    with pytest.raises(FileExistsError):
        extract(folder / "archive", folder / "tree", "bots/one")

    assert (folder / "tree/main.py").read_bytes() == b"first"
    assert sorted(os.listdir(folder)) == ["archive", "tree"]


# --- what is refused


def outward_chain() -> bytes:
    """No link leaves by itself: ``a`` is the folder ``d``, and ``a/..`` is then the root, whose ``..`` is outside."""
    return tarred(
        ("d/file", b"1"),
        (tar_special("a", tarfile.SYMTYPE, "d"), b""),
        (tar_special("b", tarfile.SYMTYPE, "a/../.."), b""),
    )


def encrypted_zip() -> bytes:
    content = bytearray(zipped(("main.py", b"secret")))
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.index(signature) + at
        content[start] |= 1
    return bytes(content)


def zip_with_name_of_bytes(name: bytes) -> bytes:
    placeholder = "N" * len(name)
    return zipped((placeholder, b"1")).replace(placeholder.encode(), name)


def zip_claiming_size(size: int) -> bytes:
    """The central directory and the local header agree on a size that is not true."""
    content = bytearray(zipped(("main.py", b"0123456789")))
    content[content.index(b"PK\x01\x02") + 24 :][:4] = b""
    central = content.index(b"PK\x01\x02")
    content[central + 24 : central + 28] = struct.pack("<I", size)
    content[22:26] = struct.pack("<I", size)
    return bytes(content)


def tar_claiming_size(size: int) -> bytes:
    info = tarfile.TarInfo("main.py")
    info.size = size
    return gzip.compress(info.tobuf() + bytes(1024))


REFUSED = {
    "nothing": (b"", "", "empty"),
    "text": (b"#!/bin/sh\nrm -rf /\n", "", "neither ZIP nor TAR.GZ"),
    "zip of nothing": (zipped(), "", "contains no file"),
    "tar of nothing": (tarred(), "", "contains no file"),
    "gzip of text": (gzip.compress(b"hello" * 500), "", "damaged header"),
    "zip, dots": (zipped(("../up.py", b"1")), "../up.py", "'..'"),
    "zip, dots inside": (zipped(("a/../../up.py", b"1")), "a/../../up.py", "'..'"),
    "tar, dots": (tarred(("lib/../../up.py", b"1")), "lib/../../up.py", "'..'"),
    "zip, absolute": (zipped(("/etc/passwd", b"1")), "/etc/passwd", "absolute"),
    "tar, absolute": (tarred(("/etc/passwd", b"1")), "/etc/passwd", "absolute"),
    "zip, backslash": (zipped(("..\\up.py", b"1")), "..\\up.py", "backslash"),
    "zip, drive": (zipped(("C:/up.py", b"1")), "C:/up.py", "absolute"),
    "zip, newline": (zipped(("a\nb.py", b"1")), "a\nb.py", "control character"),
    "zip, nul": (zip_with_name_of_bytes(b"main.py\0.txt"), "main.py\0.txt", "control character"),
    "zip, not UTF-8": (zip_with_name_of_bytes(b"gr\xf6\xdfe.py"), "", "UTF-8"),
    "tar, not UTF-8": (
        tarred((tarfile.TarInfo("gr\udcf6.py"), b"1"), format=tarfile.GNU_FORMAT),
        "gr\\xf6.py",
        "UTF-8",
    ),
    "zip, twice": (zipped(("a.py", b"1"), ("./a.py", b"2")), "./a.py", "twice"),
    "tar, twice": (tarred(("a.py", b"1"), ("a.py", b"2")), "a.py", "twice"),
    "file as folder": (tarred(("a", b"1"), ("a/b", b"2")), "a/b", "needs 'a' as a folder"),
    "folder as file": (tarred(("a/b", b"2"), ("a", b"1")), "a", "twice"),
    "tar, link out": (tarred((tar_special("l", tarfile.SYMTYPE, "../x"), b"")), "l", "leaves the folder"),
    "tar, absolute link": (tarred((tar_special("l", tarfile.SYMTYPE, "/etc"), b"")), "l", "leaves the folder"),
    "tar, chain of links": (outward_chain(), "b", "leaves the folder"),
    "tar, link to itself": (tarred((tar_special("l", tarfile.SYMTYPE, "l"), b"")), "l", "too many links"),
    "tar, through a link": (
        tarred((tar_special("l", tarfile.SYMTYPE, "d"), b""), ("l/evil.py", b"1")),
        "l/evil.py",
        "needs 'l' as a folder, but that is a link",
    ),
    "tar, link in place of a file": (
        tarred(("a.py", b"1"), (tar_special("a.py", tarfile.SYMTYPE, "b"), b"")),
        "a.py",
        "twice",
    ),
    "tar, hard link out": (tarred((tar_special("h", tarfile.LNKTYPE, "../x"), b"")), "h", "'..'"),
    "tar, hard link to host": (tarred((tar_special("h", tarfile.LNKTYPE, "/etc/shadow"), b"")), "h", "absolute"),
    "tar, hard link to link": (
        tarred((tar_special("l", tarfile.SYMTYPE, "x"), b""), (tar_special("h", tarfile.LNKTYPE, "l"), b"")),
        "h",
        "not an earlier file",
    ),
    "zip, link out": (zipped((zip_mode("l", 0o120777), b"../../etc")), "l", "leaves the folder"),
    "zip, fifo": (zipped((zip_mode("p", 0o010644), b"")), "p", "named pipe"),
    "zip, device": (zipped((zip_mode("d", 0o020666), b"")), "d", "device"),
    "tar, fifo": (tarred((tar_special("p", tarfile.FIFOTYPE), b"")), "p", "named pipe"),
    "tar, device": (tarred((tar_special("d", tarfile.CHRTYPE), b"")), "d", "character device"),
    "tar, block device": (tarred((tar_special("d", tarfile.BLKTYPE), b"")), "d", "block device"),
    "tar, unknown type": (tarred((tar_special("v", b"V"), b"")), "v", "unknown type"),
    "zip, encrypted": (encrypted_zip(), "main.py", "encrypted"),
    "zip, LZMA": (zipped(("a.py", b"1" * 99), method=zipfile.ZIP_LZMA), "a.py", "method 14"),
    "zip, claims less": (zip_claiming_size(4), "main.py", "corrupt"),
    "zip, claims more": (zip_claiming_size(4000), "main.py", "declares 4000"),
    "tar, claims more": (tar_claiming_size(10_000), "main.py", "truncated"),
    "tar, huge header": (
        gzip.compress(tarfile.TarInfo.create_pax_global_header({"comment": "x" * 600_000})),
        "",
        "extended header of",
    ),
    "zip, cut": (zipped(("a.py", os.urandom(5000)))[:3000], "", "corrupt"),
    "tar.gz, cut": (tarred(("a.py", os.urandom(50_000)))[:3000], "a.py", "corrupt"),
    "tar, cut": (tarred(("a.py", os.urandom(5000)), mode="w")[:3000], "a.py", "truncated"),
    "tar, no end": (tarred(("a.py", b"1"), mode="w")[:1024], "a.py", "header"),
    "tar, more after the end": (tarred(("a.py", b"1"), mode="w") + tarred(("b.py", b"1"), mode="w"), "a.py", "after"),
    "tar, damaged later": (
        tarred(("a.py", b"1"), mode="w")[:1024] + b"\1" * 512 + bytes(1024),
        "a.py",
        "damaged header",
    ),
    "long name": (zipped(("n" * 256, b"1")), "n" * 256, "over 255"),
    "long path": (zipped(("/".join(["n" * 200] * 6), b"1")), "/".join(["n" * 200] * 6), "over 1024 bytes"),
    "deep": (zipped(("a/" * 70 + "f", b"1")), "a/" * 70 + "f", "64 folders deep"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_with_key_entry_and_reason(folder: Path, name: str) -> None:
    content, entry, reason = REFUSED[name]

    error = refusal(folder, content)

    assert reason in error.reason
    assert entry in error.entry
    assert "bots/one" in str(error)


def test_too_many_files_are_refused(folder: Path) -> None:
    many = tarred(*[(f"f{number}", b"") for number in range(11)])

    assert "limit of 10 files" in refusal(folder, many, ArchiveLimits(max_entries=10)).reason


def test_folders_that_no_entry_names_count_as_well(folder: Path) -> None:
    deep = zipped(*[(f"a{number}/b/c/d/f", b"") for number in range(5)])

    assert "limit of 10 files" in refusal(folder, deep, ArchiveLimits(max_entries=10)).reason


@pytest.mark.parametrize("pack", [zipped, tarred], ids=["zip", "tar.gz"])
def test_too_large_a_total_is_refused_by_counting(folder: Path, pack: object) -> None:
    content = pack(("a", os.urandom(600)), ("b", os.urandom(600)))  # type: ignore[operator]

    error = refusal(folder, content, ArchiveLimits(max_total_bytes=1000))

    assert (error.entry, error.reason) == ("b", "exceeds the limit of 1000 bytes in total")


@pytest.mark.parametrize("pack", [zipped, tarred], ids=["zip", "tar.gz"])
def test_a_bomb_is_refused_by_its_ratio(folder: Path, pack: object) -> None:
    content = pack(("zeros", bytes(20 * 1024 * 1024)))  # type: ignore[operator]

    assert "compression ratio" in refusal(folder, content).reason


def test_a_tar_of_nothing_but_headers_is_a_bomb_too(folder: Path) -> None:
    folders = b"".join(tar_special("d", tarfile.DIRTYPE).tobuf() for _ in range(40_000)) + bytes(1024)

    assert "compression ratio" in refusal(folder, gzip.compress(folders)).reason


def test_a_central_directory_of_claimed_gigabytes_is_not_read(folder: Path) -> None:
    content = bytearray(zipped(("a.py", b"1")) + bytes(0))
    end = content.index(b"PK\x05\x06")
    content[end + 12 : end + 16] = struct.pack("<I", 0x7FFFFFFF)

    refusal(folder, bytes(content))


# --- arbitrary input

NAMES = st.one_of(
    st.sampled_from(["..", ".", "/", "a", "b", "../x", "a/b", "a/../..", "/tmp/x", "C:x", "..\\x", "a//b", "\0", ""]),
    st.lists(st.sampled_from(["..", ".", "a", "b", "é", ""]), min_size=1, max_size=4).map("/".join),
    st.text(max_size=8),
)
TYPES = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, b"S"])


def assert_all_inside(tree: Path) -> None:
    root = tree.resolve()
    for path in tree.rglob("*"):
        assert path.resolve().is_relative_to(root)
        assert path.is_symlink() or path.is_file() or path.is_dir()


def attempt(tmp_path: Path, content: bytes) -> None:
    """Extract in a fresh folder: all inside, or refused with nothing left."""
    place = tmp_path / os.urandom(8).hex() / "in"
    place.mkdir(parents=True)
    (place / "archive").write_bytes(content)
    try:
        extract(place / "archive", place / "tree", "k", ArchiveLimits(max_entries=50, max_total_bytes=100_000))
    except ArchiveRejected:
        assert os.listdir(place) == ["archive"]
    else:
        assert_all_inside(place / "tree")
    assert os.listdir(place.parent) == ["in"]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(NAMES, TYPES, NAMES, st.binary(max_size=20)), max_size=8))
def test_no_tar_writes_outside(tmp_path: Path, members: list[tuple[str, bytes, str, bytes]]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", errors="surrogatepass") as archive:
        for name, kind, target, content in members:
            info = tar_special(name, kind, target)
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(content))

    attempt(tmp_path, buffer.getvalue())


@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(NAMES, st.sampled_from([0o100644, 0o120777, 0o040755, 0]), NAMES), max_size=8))
def test_no_zip_writes_outside(tmp_path: Path, members: list[tuple[str, int, str]]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, mode, content in members:
            archive.writestr(zip_mode(name or "x", mode), content)

    attempt(tmp_path, buffer.getvalue())


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_to_a_good_archive_does_harm(tmp_path: Path, data: st.DataObject) -> None:
    good = data.draw(st.sampled_from(GOOD))
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))

    attempt(tmp_path, bytes(damaged[: data.draw(st.integers(1, len(good)))]))


GOOD = [
    zipped(("main.py", b"print(1)\n" * 20), ("lib/a.py", b"1"), (zip_mode("l", 0o120777), b"main.py")),
    tarred(("main.py", b"print(1)\n" * 20), (tar_special("l", tarfile.SYMTYPE, "main.py"), b""), mode="w"),
    tarred(("main.py", b"print(1)\n" * 20), ("d/" * 60 + "x", b"1"), mode="w:gz"),
]
