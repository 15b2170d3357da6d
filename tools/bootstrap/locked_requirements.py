"""Convert the lockfile into requirements with digests, for any pip: exactly the locked packages.

`python locked_requirements.py requirements.lock requirements.txt` prints them. Packages for tests are excluded: the
part of requirements.txt below its line `# Tests`.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

TESTS_HEADING = "# Tests"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXTRA = re.compile(r"""extra\s*==\s*["']([^"']+)["']""")


def pinned(lockfile: str, requirements: str, *, tests: bool = False) -> Iterator[str]:
    """Yield a line `name==version --hash=...` for each package that *requirements* need, without those for tests.

    Args:
        tests: include the packages for tests.

    Markers of platform and Python version are not evaluated: the lock was resolved for the supported ones, so
    everything in it can be installed.

    Raises:
        ValueError: a package of *requirements* is not locked; the lockfile is older than the requirements.
    """
    locked = _locked(lockfile)
    wanted: set[str] = set()
    queue = [(name, frozenset[str]()) for name in _direct(requirements, tests)]
    while queue:
        name, extras = queue.pop()
        if name not in locked:
            raise ValueError(f"{name!r} is not locked: run `./pants generate-lockfiles --resolve=runtime`")
        wanted.add(name)
        for dependency, its_extras in _dependencies(locked[name]["requires_dists"], extras):
            if dependency in locked and (dependency not in wanted or its_extras):
                queue.append((dependency, its_extras))
    for name in sorted(wanted):
        digests = " ".join(f"--hash={item['algorithm']}:{item['hash']}" for item in locked[name]["artifacts"])
        yield f"{name}=={locked[name]['version']} {digests}"


def _locked(lockfile: str) -> dict[str, dict[str, Any]]:
    # Pants puts its own data above the JSON, as comments, which JSON lacks.
    text = "\n".join(line for line in lockfile.splitlines() if not line.startswith("//"))
    (resolve,) = json.loads(text)["locked_resolves"]
    return {_canonical(entry["project_name"]): entry for entry in resolve["locked_requirements"]}


def _direct(requirements: str, tests: bool) -> Iterator[str]:
    for line in requirements.splitlines():
        if line.startswith(TESTS_HEADING) and not tests:
            return
        name = _NAME.match(line)
        if name is not None:
            yield _canonical(name.group())


def _dependencies(lines: Iterable[str], extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    for line in lines:
        specification, _, marker = line.partition(";")
        needed_by = set(_EXTRA.findall(marker))
        if needed_by and not needed_by & extras:
            continue
        name = _NAME.match(specification)
        if name is not None:
            listed = re.search(r"\[([^\]]*)\]", specification)
            names = listed.group(1).split(",") if listed else []
            yield _canonical(name.group()), frozenset(item.strip() for item in names if item.strip())


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    for requirement in pinned(Path(sys.argv[1]).read_text(), Path(sys.argv[2]).read_text()):
        sys.stdout.write(f"{requirement}\n")
