from dataclasses import replace
from pathlib import Path

import pytest

from libs.core.errors import UserError
from libs.docker_runner.code.definition import DefinitionInvalid, Deployed, ExecutableFactory, Ownership
from libs.docker_runner.executable import CodeRef, Entrypoint
from libs.docker_runner.settings import RunnerSettings

FACTORY = ExecutableFactory(
    RunnerSettings(temp_dir=Path("/tmp/runtime")), service="bot-runner", scope="s", entrypoint=Entrypoint.BOT
)
OWNERSHIP = Ownership(segment=3, epoch=7, worker="w1", keepalive=None)
DEPLOYED = Deployed(
    id="b1",
    revision=2,
    config={"symbol": "BTC"},
    custom_config={"runtime": "python3.11", "entrypoints": {"bot": "main.py", "backtest": "test.py"}},
    version="1.0.0",
    code=CodeRef("bots", "b1.zip"),
)


def test_a_deployed_bot_becomes_what_its_description_says() -> None:
    executable = FACTORY.build(DEPLOYED, OWNERSHIP)

    assert (executable.script, executable.placement.image) == ("main.py", "python:3.11-slim")
    assert (executable.segment, executable.epoch, executable.revision) == (3, 7, 2)


def test_a_new_version_of_the_code_is_another_spec_but_a_new_owner_is_not() -> None:
    spec = FACTORY.build(DEPLOYED, OWNERSHIP).spec_hash()

    assert FACTORY.build(replace(DEPLOYED, version="1.0.1"), OWNERSHIP).spec_hash() != spec
    assert FACTORY.build(replace(DEPLOYED, revision=9), replace(OWNERSHIP, epoch=8)).spec_hash() == spec


@pytest.mark.parametrize(
    ("custom_config", "field"),
    [
        ({"entrypoints": {"bot": "main.py"}}, "custom.config.runtime"),
        ({"runtime": 3, "entrypoints": {"bot": "main.py"}}, "custom.config.runtime"),
        ({"runtime": "python3.11"}, "custom.config.entrypoints"),
        ({"runtime": "python3.11", "entrypoints": {"bot": " "}}, "custom.config.entrypoints.bot"),
        ({"runtime": "python3.11", "entrypoints": {"backtest": "b.py"}}, "custom.config.entrypoints.bot"),
    ],
)
def test_a_wrong_description_is_an_error_that_names_the_field(custom_config: dict[str, object], field: str) -> None:
    with pytest.raises(DefinitionInvalid) as caught:
        FACTORY.build(replace(DEPLOYED, custom_config=custom_config), OWNERSHIP)

    assert caught.value.field == field


def test_an_unknown_runtime_is_the_owners_error_and_names_those_there_are() -> None:
    custom_config = {**DEPLOYED.custom_config, "runtime": "cobol"}

    with pytest.raises(UserError, match=r"cobol.*nodejs20, python3\.11"):
        FACTORY.build(replace(DEPLOYED, custom_config=custom_config), OWNERSHIP)


def test_a_bot_without_code_is_an_error() -> None:
    with pytest.raises(DefinitionInvalid, match=r"custom\.filePath"):
        FACTORY.build(replace(DEPLOYED, code=None), OWNERSHIP)
