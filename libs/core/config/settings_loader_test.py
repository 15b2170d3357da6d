from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import pytest
from pydantic import Field, SecretStr, model_validator

from libs.core.config.settings_loader import Group, Named, Seconds, SettingsError, load, load_all, rows
from libs.core.process.service import BACKTEST_RUNNER, BOT_RUNNER, ServiceDefinition


class Demo(Group):
    port: Annotated[int, Named("PORT", aliases=("OLD_PORT", "OLDEST_PORT"), flag="--the-port"), Field(ge=1, le=99)] = 7
    wait: Annotated[Seconds, Named("WAIT", unit="seconds"), Field(gt=0, le=60, description="how long to wait")] = 1.5
    color: Annotated[Literal["red", "blue"], Named("COLOR"), Field(description="colour of the lamp")] = "red"
    lit: Annotated[bool, Named("LIT"), Field(description="whether it is lit")] = False
    ratio: Annotated[Annotated[float, Field(allow_inf_nan=False)] | None, Named("RATIO"), Field(ge=0)] = None
    owner: Annotated[str, Named("OWNER", default_of=lambda service: f"{service.name}-owner"), Field(max_length=30)]

    @model_validator(mode="after")
    def _lamps_that_are_lit_are_blue(self) -> Self:
        if self.lit and self.color == "red":
            raise ValueError("LIT: a red lamp cannot be lit; set COLOR=blue")
        return self


class Secrets(Group):
    password: Annotated[SecretStr, Named("PASSWORD"), Field(min_length=8, description="password of the door")]
    size: Annotated[int, Named(lambda service: service.max_per_partition_env), Field(description="size")] = 10


class Filed(Group):
    key: Annotated[str, Named("KEY", file="KEY_FILE"), Field(description="key")] = "none"
    key_file: Annotated[str | None, Named("KEY_FILE"), Field(description="file of the key")] = None
    lamp: Annotated[
        str | None, Named("LAMP", file="LAMP_FILE", file_may_be_missing=True), Field(description="lamp")
    ] = None


@dataclass(frozen=True)
class Both:
    demo: Demo
    secrets: Secrets


def demo(
    environ: dict[str, str] | None = None,
    flags: dict[str, object] | None = None,
    service: ServiceDefinition = BOT_RUNNER,
) -> Demo:
    return load(Demo, flags, environ or {}, service)


def problems_of(environ: dict[str, str], flags: dict[str, object] | None = None) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load_all(Both, flags, environ, BOT_RUNNER)
    return caught.value.problems


def test_unset_setting_has_its_default() -> None:
    assert demo().port == 7


def test_a_flag_beats_the_environment_and_the_environment_beats_the_default() -> None:
    environ = {"PORT": "8"}

    assert demo(environ).port == 8
    assert demo(environ, {"the_port": 9}).port == 9


def test_missing_flag_has_no_effect() -> None:
    assert demo({"PORT": "8"}, {"the_port": None}).port == 8


def test_the_name_of_today_beats_older_ones() -> None:
    assert demo({"OLDEST_PORT": "3"}).port == 3
    assert demo({"OLDEST_PORT": "3", "OLD_PORT": "4"}).port == 4
    assert demo({"OLDEST_PORT": "3", "OLD_PORT": "4", "PORT": "5"}).port == 5


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_an_empty_variable_is_not_set(empty: str) -> None:
    assert demo({"PORT": empty, "OLD_PORT": "4"}).port == 4


def test_space_around_a_value_does_not_count() -> None:
    assert (
        load(Secrets, {}, {"PASSWORD": " correct horse\n"}, BOT_RUNNER).password.get_secret_value() == "correct horse"
    )


def test_names_of_choices_may_be_in_any_case() -> None:
    assert demo({"COLOR": "BLUE"}).color == "blue"


def test_names_and_defaults_may_be_the_services() -> None:
    environ = {"PASSWORD": "correct horse", "MAX_BACKTESTS_PER_PARTITION": "3", "MAX_BOTS_PER_PARTITION": "4"}

    assert demo(service=BACKTEST_RUNNER).owner == "backtest-runner-owner"
    assert load(Secrets, {}, environ, BACKTEST_RUNNER).size == 3
    assert load(Secrets, {}, environ, BOT_RUNNER).size == 4


def test_error_lists_all_invalid_settings() -> None:
    problems = problems_of({"PORT": "0", "WAIT": "soon", "COLOR": "green", "LIT": "maybe", "RATIO": "nan"})

    assert [problem.split("=")[0].split(" ")[0] for problem in problems] == [
        "PORT",
        "WAIT",
        "COLOR",
        "LIT",
        "RATIO",
        "PASSWORD",
    ]


def test_a_problem_names_the_variable_the_value_what_is_allowed_and_the_remedy() -> None:
    problem, *_ = problems_of({"WAIT": "soon"})

    assert problem == (
        "WAIT='soon' must be a number of seconds above 0 to 60; "
        "correct it, or leave it out (default: 1.5); meaning: how long to wait"
    )


def test_a_problem_names_the_flag_or_the_older_name_that_brought_the_value() -> None:
    assert problems_of({"PORT": "5"}, {"the_port": 100})[0].startswith("--the-port='100' must be")
    assert problems_of({"OLD_PORT": "x"})[0].startswith("OLD_PORT='x' must be a whole number from 1 to 99;")


def test_a_missing_value_is_asked_for() -> None:
    assert problems_of({}) == ("PASSWORD is not set: give the password of the door",)


def test_a_secret_is_never_shown() -> None:
    problems = problems_of({"PASSWORD": "geheim"})

    assert problems[0].startswith("PASSWORD=(secret) must be a string of at least 8 characters; ")
    assert "geheim" not in repr(problems)
    assert "geheim" not in repr(Secrets(password=SecretStr("geheimer!")))


def test_error_of_cross_setting_check_keeps_its_text() -> None:
    assert problems_of({"LIT": "true", "PASSWORD": "correct horse"}) == (
        "LIT: a red lamp cannot be lit; set COLOR=blue",
    )


def test_a_group_made_by_hand_reads_nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "8")

    assert Demo(owner="me").port == 7


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "8")

    assert load(Demo, service=BOT_RUNNER).port == 8


def test_all_settings_can_be_listed_for_people() -> None:
    listed = {row.name: row for row in rows([Demo, Secrets, Demo], BOT_RUNNER)}

    assert list(listed) == ["PORT", "WAIT", "COLOR", "LIT", "RATIO", "OWNER", "PASSWORD", "MAX_BOTS_PER_PARTITION"]
    assert (listed["PORT"].aliases, listed["PORT"].flag) == (("OLD_PORT", "OLDEST_PORT"), "--the-port")
    assert [row.default for row in listed.values()] == [
        "7",
        "1.5",
        "red",
        "false",
        "unset",
        "bot-runner-owner",
        "required",
        "10",
    ]
    assert listed["COLOR"].allowed == "one of red, blue"
    assert listed["RATIO"].allowed == "a number from 0"


def test_a_value_comes_from_its_file_unless_it_is_set_itself(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from the file\n")
    (tmp_path / "lamp").write_text("blue")
    files = {"KEY_FILE": f"{tmp_path}/key", "LAMP_FILE": f"{tmp_path}/lamp"}

    assert load(Filed, environ=files) == Filed(key="from the file", key_file=f"{tmp_path}/key", lamp="blue")
    assert load(Filed, environ=files | {"KEY": "set"}) == Filed(key="set", key_file=None, lamp="blue")


def test_a_missing_file_is_an_error_unless_only_the_file_may_be_missing(tmp_path: Path) -> None:
    assert load(Filed, environ={"LAMP_FILE": f"{tmp_path}/lamp"}).lamp is None

    for name, path in {"KEY_FILE": f"{tmp_path}/key", "LAMP_FILE": f"{tmp_path}/no-folder/lamp"}.items():
        with pytest.raises(SettingsError, match=f"{name}=.* cannot be read"):
            load(Filed, environ={name: path})
