"""An unavailable program is reported by name, with the remedy."""

import os

import pytest

from tools.debian.packages import PackageMissingError, ensure_program, ensure_unpacked


async def test_a_program_that_is_there_is_used_and_nothing_is_fetched() -> None:
    reports: list[str] = []

    found = [await ensure_program("sh", "dash", reports.append), await ensure_unpacked("sh", "dash", reports.append)]

    assert [path.name for path in found] == ["sh", "sh"]
    assert reports == []


@pytest.mark.parametrize("ensure", [ensure_program, ensure_unpacked])
async def test_unprivileged_user_gets_name_of_package(ensure: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(PackageMissingError, match=r"`no-such-program`.*apt-get install some-package"):
        await ensure("no-such-program", "some-package")  # type: ignore[operator]
