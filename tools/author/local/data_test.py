from pathlib import Path

import pytest

from tools.author.local.data import LocalData, LocalDataInvalid, local_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "days").mkdir(mode=0o755)
    for name, mode in (("prices.csv", 0o644), ("closed.csv", 0o600)):
        (tmp_path / name).write_text("1")
        (tmp_path / name).chmod(mode)
    (tmp_path / "link.csv").symlink_to("prices.csv")
    return tmp_path.resolve()


async def test_files_and_folders_are_found_by_name(folder: Path) -> None:
    paths = local_data([f"prices={folder}/link.csv", f"days={folder}/days"])

    assert await LocalData(paths).fetch(["prices"]) == {"prices": folder / "prices.csv"}
    assert paths["days"] == folder / "days"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["prices"], "is not NAME=PATH"),
        (["prices="], "is not NAME=PATH"),
        (["../x={}/prices.csv"], "is not NAME=PATH"),
        (["a={}/prices.csv", "a={}/days"], "names 'a' twice"),
        (["a={}/absent"], "No such file"),
        (["a=/dev/null"], "neither a file nor a folder"),
        (["a={}/closed.csv"], "chmod o+r"),
    ],
)
def test_invalid_data_set_is_refused_with_remedy(folder: Path, texts: list[str], message: str) -> None:
    with pytest.raises(LocalDataInvalid) as raised:
        local_data([text.format(folder) for text in texts])

    assert message in str(raised.value)


async def test_missing_data_set_is_named_with_the_flag() -> None:
    with pytest.raises(LocalDataInvalid, match=r"missing data set 'prices': .* --data prices=PATH"):
        await LocalData({}).fetch(["prices"])
