import json
from dataclasses import replace
from pathlib import Path

import pytest

from tools.author.dependencies.plan import (
    Step,
    compile_step,
    compiled_name,
    esbuild_step,
    packages_step,
    typescript,
)
from tools.bots.errors import BotFolderInvalid
from tools.bots.folder import BotFolder, read_folder


def folder(path: Path, main: str = "main.py", **files: str) -> BotFolder:
    for name, text in {main: "", **{name.replace("__", "."): text for name, text in files.items()}}.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return read_folder(path)


def step(path: Path, main: str = "main.py", **files: str) -> Step:
    found = packages_step(folder(path, main, **files))
    assert found is not None
    return found


# --- Python


def test_requirements_are_the_input_with_what_they_include(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "c.txt").write_text("idna<4")

    found = step(
        tmp_path, requirements__txt="# these\n-r more.txt\n", **{"more.txt": "ccxt==4\n-c more/c.txt # limits"}
    )

    assert found.what == "vendor from requirements.txt"
    assert set(found.files) == {"requirements.txt", "more.txt", "more/c.txt"}


@pytest.mark.parametrize("text", ["", "\n# ccxt\n", "--index-url https://example.com\n"])
def test_requirements_without_a_package_need_no_build(tmp_path: Path, text: str) -> None:
    assert packages_step(folder(tmp_path, requirements__txt=text)) is None


@pytest.mark.parametrize(
    "line", ["./wheels/a.whl", "-e .", "a @ file:wheels/a.whl", "a.whl", "--find-links wheels\na", "-f ./w\na"]
)
def test_requirement_of_the_folder_itself_has_the_folder_as_input(tmp_path: Path, line: str) -> None:
    (tmp_path / "vendor").mkdir()
    (tmp_path / "vendor" / "old.py").write_text("")

    found = step(tmp_path, requirements__txt=line, **{"data.csv": "", ".env": ""})

    assert set(found.files) == {"main.py", "requirements.txt", "data.csv"}


@pytest.mark.parametrize("line", ["ccxt", "a @ https://example.com/a.whl", "-f https://example.com/ \na", "numpy>=1.2"])
def test_requirement_of_an_index_has_only_its_file_as_input(tmp_path: Path, line: str) -> None:
    assert set(step(tmp_path, requirements__txt=line).files) == {"requirements.txt"}


@pytest.mark.parametrize("line", ["-r gone.txt", "-r ../outside.txt"])
def test_included_file_that_is_not_in_the_folder_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "outside.txt").write_text("a")
    (tmp_path / "b").mkdir()

    with pytest.raises(BotFolderInvalid, match="is not a file in"):
        packages_step(folder(tmp_path / "b", requirements__txt=line))


def test_project_dependencies_become_requirements(tmp_path: Path) -> None:
    found = step(tmp_path, pyproject__toml='[project]\nname = "b"\ndependencies = ["ccxt==4", "pandas<3"]')

    assert found.files == {"requirements.txt": b"ccxt==4\npandas<3\n"}
    assert found.what == "vendor from pyproject.toml"


def test_requirements_count_before_the_project(tmp_path: Path) -> None:
    project = '[project]\ndependencies = ["pandas"]'

    assert step(tmp_path, requirements__txt="ccxt", pyproject__toml=project).what == "vendor from requirements.txt"


@pytest.mark.parametrize(
    "text", ["", "[tool.black]\nline-length = 1", '[project]\nname = "b"', "[project]\ndependencies=[]"]
)
def test_project_without_dependencies_needs_no_build(tmp_path: Path, text: str) -> None:
    assert packages_step(folder(tmp_path, pyproject__toml=text)) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[project", "cannot be read as TOML"),
        ('[project]\ndynamic = ["dependencies"]', "not in `project.dependencies`"),
        ('[tool.poetry.dependencies]\npython = "3.11"\nccxt = "4"', "export them to requirements.txt"),
    ],
)
def test_project_whose_dependencies_are_unknown_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BotFolderInvalid, match=message):
        packages_step(folder(tmp_path, pyproject__toml=text))


# --- Node

PACKAGE = json.dumps({"dependencies": {"ccxt": "4"}})


def test_lockfile_is_the_input_with_the_package_and_the_registry(tmp_path: Path) -> None:
    files = {"package.json": PACKAGE, "package-lock.json": "{}", ".npmrc": "registry=x", "lib.js": ""}

    found = step(tmp_path, "main.js", **files)

    assert set(found.files) == {"package.json", "package-lock.json", ".npmrc"}
    assert "$npm ci --omit=dev" in found.script


@pytest.mark.parametrize("package", ["{}", '{"devDependencies": {"esbuild": "1"}}', '{"dependencies": []}', "[]"])
def test_package_without_dependencies_needs_no_build(tmp_path: Path, package: str) -> None:
    assert packages_step(folder(tmp_path, "main.js", package__json=package)) is None


def test_package_without_a_lockfile_is_refused_with_the_command_that_writes_one(tmp_path: Path) -> None:
    with pytest.raises(BotFolderInvalid, match="npm install --package-lock-only"):
        packages_step(folder(tmp_path, "main.js", package__json=PACKAGE))


def test_modules_without_a_lockfile_are_used_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "node_modules").mkdir()

    assert packages_step(folder(tmp_path, "main.js", package__json=PACKAGE)) is None


def test_dependency_in_the_folder_has_the_folder_as_input(tmp_path: Path) -> None:
    package = json.dumps({"dependencies": {"own": "file:own"}})
    files = {"package.json": package, "package-lock.json": "{}", "own/package.json": "{}"}

    assert "own/package.json" in step(tmp_path, "main.js", **files).files


def test_each_language_has_its_own_file(tmp_path: Path) -> None:
    assert packages_step(folder(tmp_path, "main.js", requirements__txt="ccxt")) is None
    (tmp_path / "main.js").unlink()
    (tmp_path / "requirements.txt").unlink()
    assert packages_step(folder(tmp_path, package__json=PACKAGE)) is None


# --- TypeScript


def test_typescript_is_compiled_with_the_sources_of_the_folder(tmp_path: Path) -> None:
    bot = folder(tmp_path, "main.ts", **{"lib/feed.ts": "", "data.csv": "", "node_modules/a/a.ts": ""})

    found = compile_step(bot)

    assert found is not None
    assert set(found.files) == {"main.ts", "lib/feed.ts"}
    assert "'./main.ts'" in found.script
    assert esbuild_step(bot) is not None


def test_javascript_is_not_compiled(tmp_path: Path) -> None:
    bot = folder(tmp_path, "main.js")

    assert (compile_step(bot), esbuild_step(bot)) == (None, None)


@pytest.mark.parametrize(
    ("script", "name"), [("main.ts", "main.cjs"), ("a/b.mts", "a/b.cjs"), ("main.js", "main.js"), ("index", "index")]
)
def test_compiled_file_is_commonjs_whatever_the_package_is(script: str, name: str) -> None:
    assert compiled_name(script) == name


def test_file_name_cannot_leave_its_quotes(tmp_path: Path) -> None:
    bot = folder(tmp_path, "main.ts")
    bot = replace(bot, description={**bot.description, "entrypoints": {"bot": "a'; touch x;'.ts"}})

    with pytest.raises(BotFolderInvalid, match="rename the file"):
        typescript(bot)


# --- keys


def test_output_is_another_one_for_another_image_script_or_input() -> None:
    one = Step("a", "", "script", {"a": b"1", "b": b"2"}, "r")
    others = [
        replace(one, script="other"),
        replace(one, files={"a": b"1", "b": b"3"}),
        replace(one, files={"a": b"1"}),
        replace(one, files={"a": b"1\0b\0001\x002"}),
    ]

    keys = {one.key("image"), one.key("other image"), *(other.key("image") for other in others)}

    assert len(keys) == 6
    assert replace(one, what="x", remedy="y", files={"b": b"2", "a": b"1"}).key("image") == one.key("image")
