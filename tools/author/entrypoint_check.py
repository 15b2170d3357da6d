"""Check that an entrypoint can be loaded, without running it: Python is parsed, Node checks its own syntax."""

import ast
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from tools.author.findings import Finding
from tools.bots.folder import TYPESCRIPT_SUFFIXES, file_of

_PYTHON = (3, 11)
_NODE_MAJOR = 20
_NODE_SECONDS = 30.0
# A module that uses one of these may have a `main` that its text does not show.
_HIDES_NAMES = frozenset({"exec", "globals", "setattr", "vars", "__getattr__", "__dict__"})


def entrypoint_findings(folder: Path, entry: str, script: str, runtime: str) -> list[Finding]:
    """Return what is wrong in the file of an entrypoint that exists.

    Args:
        entry: its name, such as ``bot``; those of *query* have no ``main``.
    """
    name = file_of(folder, script, runtime)
    if name is None or name.endswith(TYPESCRIPT_SUFFIXES):
        # The compiler reports errors of TypeScript.
        return []
    file = folder / name
    if runtime.startswith("python"):
        return _python(file, needs_main=entry != "query")
    return _node(file)


def _python(file: Path, *, needs_main: bool) -> list[Finding]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source = file.read_bytes()
            tree = ast.parse(source, str(file), feature_version=_PYTHON)
            # Also what the parser takes: a `return` outside of a function.
            compile(source, str(file), "exec", dont_inherit=True)
    except SyntaxError as error:
        line = f"{file}:{error.lineno}" if error.lineno else str(file)
        return [Finding(line, f"is not Python {_PYTHON[0]}.{_PYTHON[1]}: {error.msg}", "correct the line")]
    except (ValueError, RecursionError, MemoryError, OSError) as error:
        return [Finding(str(file), f"cannot be read as Python: {error}", "save it as UTF-8 text")]
    if needs_main and not _may_have_main(tree):
        return [Finding(str(file), "has no function main(id, config)", "add it, or name another file in `entrypoints`")]
    return []


def _may_have_main(tree: ast.Module) -> bool:
    return any(name in ("main", "*") or name in _HIDES_NAMES for node in ast.walk(tree) for name in _names(node))


def _names(node: ast.AST) -> Iterator[str]:
    """Yield the names that *node* may give a module, and those that it uses."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Store) or node.id in _HIDES_NAMES:
            yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr if node.attr in _HIDES_NAMES else ""
    elif isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or alias.name.partition(".")[0]


def _node(file: Path) -> list[Finding]:
    node = shutil.which("node")
    if node is None or not _is_recent(node):
        # Its syntax is checked when it starts.
        return []
    if _accepts(node, file):
        return []
    with tempfile.TemporaryDirectory(prefix="the0-check-") as temporary:
        # The kind of module, which the name of the file does not show, may be the other one.
        others = [Path(temporary) / f"{file.stem}{suffix}" for suffix in (".mjs", ".cjs")]
        for other in others if file.suffix == ".js" else ():
            shutil.copyfile(file, other)
            if _accepts(node, other):
                return []
    return [
        Finding(
            str(file), "has a syntax that Node does not accept", f"correct the line that `node --check {file}` prints"
        )
    ]


def _is_recent(node: str) -> bool:
    version = _output(node, "--version").lstrip("v").partition(".")[0]
    return version.isdecimal() and int(version) >= _NODE_MAJOR


def _accepts(node: str, file: Path) -> bool:
    try:
        done = subprocess.run(  # noqa: S603 - it parses the file and does not run it
            [node, "--check", str(file.absolute())], capture_output=True, timeout=_NODE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return True
    return done.returncode == 0


def _output(program: str, *arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - the user's own program
            [program, *arguments], capture_output=True, text=True, timeout=_NODE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
