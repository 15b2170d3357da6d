import asyncio
import os
from pathlib import Path

import pytest

from tools.toolchains.packages import ensure_package


async def test_package_is_installed_once_by_a_python_with_or_without_pip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_CACHE_DIR", str(tmp_path))
    reports: list[str] = []

    folders = await asyncio.gather(*(ensure_package("iniconfig==2.1.0", reports.append) for _ in range(2)))

    assert set(folders) == {tmp_path / "iniconfig-2.1.0"}
    assert (tmp_path / "iniconfig-2.1.0" / "iniconfig" / "__init__.py").is_file()
    assert reports == ["installing iniconfig==2.1.0 (once)"]
    assert sorted(os.listdir(tmp_path)) == ["iniconfig-2.1.0", "iniconfig-2.1.0.lock"]
