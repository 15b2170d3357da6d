from pathlib import Path

import pytest

from tools.author.entrypoint_check import entrypoint_findings


def findings(folder: Path, source: str, entry: str = "bot") -> list[str]:
    (folder / "main.py").write_text(source)
    return [finding.text for finding in entrypoint_findings(folder, entry, "main.py", "python3.11")]


@pytest.mark.parametrize(
    "source",
    [
        "def main(id, config): pass",
        "async def main(): pass",
        "from strategy import main",
        "from strategy import *",
        "from strategy import run as main",
        "import strategy\nmain = strategy.run",
        "class Main:\n def __call__(self): pass\nmain: Main = Main()",
        "if True:\n    def main(): pass",
        "globals()['main'] = print",
        "def __getattr__(name): return print",
        "\ufeffdef main(): pass",
    ],
)
def test_source_that_may_have_a_main_is_accepted(tmp_path: Path, source: str) -> None:
    assert findings(tmp_path, source) == []


@pytest.mark.parametrize(
    ("source", "line"),
    [("def main(:\n", 1), ("x = 1\nreturn x\n", 2), ("def main(): pass\ntype X = int\n", 2), ("print 'a'", 1)],
)
def test_syntax_error_is_reported_with_its_line(tmp_path: Path, source: str, line: int) -> None:
    (text,) = findings(tmp_path, source)

    assert text.startswith(f"{tmp_path / 'main.py'}:{line}: is not Python 3.11: ")


def test_source_without_main_is_reported(tmp_path: Path) -> None:
    (text,) = findings(tmp_path, "def run(id, config): pass\nif __name__ == '__main__': run('', {})")

    assert "has no function main(id, config); add it" in text


def test_query_needs_no_main(tmp_path: Path) -> None:
    assert findings(tmp_path, "from the0 import query", "query") == []


def test_file_that_is_no_text_is_reported(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_bytes(b"\xff\xfe\0\0")

    (finding,) = entrypoint_findings(tmp_path, "bot", "main.py", "python3.11")
    assert str(tmp_path / "main.py") in finding.where
