"""The patches: each fits the present source, and one that does not is refused."""

from pathlib import Path

import pytest

from tests.chaos.patches import PATCHES, Edit, Patch, edited
from tests.chaos.schedule import NAMES

_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("patch", PATCHES.values(), ids=PATCHES)
def test_patch_fits_the_source_and_changes_it(patch: Patch) -> None:
    for edit in patch.edits:
        source = (_ROOT / edit.path).read_text()
        assert edited(edit, source) != source


@pytest.mark.parametrize("patch", PATCHES.values(), ids=PATCHES)
def test_patch_names_faults_that_exist(patch: Patch) -> None:
    assert {name for together in patch.only for name in together.split(" + ")} <= set(NAMES)


@pytest.mark.parametrize("source", ["", "a = 1\na = 1\n"])
def test_patch_whose_text_is_not_there_once_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match=r"must have it once"):
        edited(Edit("a.py", "a = 1\n", "a = 2\n"), source)
