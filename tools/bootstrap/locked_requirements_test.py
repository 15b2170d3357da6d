import json

import pytest

from tools.bootstrap.locked_requirements import pinned


def lockfile(**requires: list[str]) -> str:
    entries = [
        {
            "project_name": name,
            "version": "1.0",
            "requires_dists": dependencies,
            "artifacts": [{"algorithm": "sha256", "hash": f"{name}1"}, {"algorithm": "sha256", "hash": f"{name}2"}],
        }
        for name, dependencies in requires.items()
    ]
    return "// a comment of Pants\n" + json.dumps({"locked_resolves": [{"locked_requirements": entries}]})


def names(lines: list[str]) -> list[str]:
    return [line.partition("==")[0] for line in lines]


def test_each_line_carries_the_version_and_every_digest() -> None:
    assert list(pinned(lockfile(a=[]), "a")) == ["a==1.0 --hash=sha256:a1 --hash=sha256:a2"]


def test_dependencies_of_dependencies_are_there_and_what_only_tests_need_is_not() -> None:
    lock = lockfile(a=["B_1>=2"], b_1=['c; python_version < "3.12"'], c=[], pytest=["d"], d=[])

    assert names(list(pinned(lock, "# What runs\nA\n\n# Tests and more.\npytest\n"))) == ["a", "b-1", "c"]


def test_an_extra_is_followed_only_where_it_is_asked_for() -> None:
    lock = lockfile(a=["b[fast]"], b=['c; extra == "fast"', 'd; extra == "docs"'], c=["a"], d=[])

    assert names(list(pinned(lock, "a"))) == ["a", "b", "c"]


def test_unlocked_requirement_is_error_with_command() -> None:
    with pytest.raises(ValueError, match=r"'new' is not locked: run `./pants generate-lockfiles"):
        list(pinned(lockfile(a=[]), "a\nnew==2"))
