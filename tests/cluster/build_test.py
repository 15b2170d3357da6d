from pathlib import Path

from tests.cluster.build import PROGRAMS, SOURCES, sources_digest
from tools.toolchains.go import LEAST


def test_digest_of_sources_changes_with_a_file_s_name_and_content(tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text("module a\n")
    first = sources_digest(tmp_path)

    (tmp_path / "go.mod").write_text("module b\n")
    second = sources_digest(tmp_path)
    (tmp_path / "go.mod").rename(tmp_path / "go.sum")

    assert len({first, second, sources_digest(tmp_path)}) == 3


def test_every_program_has_a_module_with_checksums() -> None:
    missing = [program.name for program in PROGRAMS if not (SOURCES / program.module / "go.sum").is_file()]

    assert missing == []


def test_no_module_needs_a_newer_go_than_the_one_that_is_ensured() -> None:
    versions = [
        line.removeprefix("go ")
        for program in PROGRAMS
        for line in (SOURCES / program.module / "go.mod").read_text().splitlines()
        if line.startswith("go ")
    ]

    assert len(versions) == len(PROGRAMS)
    assert [version for version in versions if parsed(version) > parsed(LEAST)] == []


def parsed(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
