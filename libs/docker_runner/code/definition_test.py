from dataclasses import replace
from pathlib import Path

import pytest

from libs.core.errors import UserError
from libs.docker_runner.code.definition import CodeSources, DefinitionInvalid, ExecutableBuilder
from libs.docker_runner.engine.room import Priority
from libs.docker_runner.executable import CodeRef, Entrypoint, Network, Question
from libs.docker_runner.settings import RunnerSettings
from tests.support.rigs.deployed_bot import DeployedBot, DeployedCode

BUILDER = ExecutableBuilder(
    settings=RunnerSettings(temp_dir=Path("/tmp/runtime")),
    service="bot-runner",
    scope="s",
    entrypoint=Entrypoint.BOT,
    code=CodeSources("configured"),
    segment=3,
    epoch=7,
    worker="w1",
    keepalive=None,
)
DEPLOYED = DeployedBot(revision=2, config={"symbol": "BTC"})


def test_deployed_bot_is_built_as_described() -> None:
    executable = BUILDER.build(DEPLOYED)

    assert (executable.script, executable.placement.image) == ("main.py", "python:3.11-slim")
    assert (executable.segment, executable.epoch, executable.revision) == (3, 7, 2)


def test_a_new_version_of_the_code_is_another_spec_but_a_new_owner_is_not() -> None:
    spec = BUILDER.build(DEPLOYED).spec_hash()

    assert BUILDER.build(replace(DEPLOYED, version="1.0.1")).spec_hash() != spec
    assert replace(BUILDER, epoch=8).build(replace(DEPLOYED, revision=9)).spec_hash() == spec


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
        BUILDER.build(replace(DEPLOYED, bot=custom_config))

    assert caught.value.field == field


def test_an_unknown_runtime_is_the_owners_error_and_names_those_there_are() -> None:
    custom_config = {**DEPLOYED.bot, "runtime": "cobol"}

    with pytest.raises(UserError, match=r"cobol.*nodejs20, python3\.11"):
        BUILDER.build(replace(DEPLOYED, bot=custom_config))


def test_a_bot_without_code_is_an_error() -> None:
    with pytest.raises(DefinitionInvalid, match=r"custom\.filePath"):
        BUILDER.build(replace(DEPLOYED, code=None))


@pytest.mark.parametrize(("bucket", "expected"), [(None, "configured"), ("other", "other")])
def test_code_without_a_bucket_is_in_the_configured_one(bucket: str | None, expected: str) -> None:
    executable = BUILDER.build(replace(DEPLOYED, code=DeployedCode(bucket, "b1.zip")))

    assert executable.code == CodeRef(expected, "b1.zip")


SHA256 = "0123456789abcdef" * 4


def built_code(sources: CodeSources, code: DeployedCode) -> CodeRef:
    return replace(BUILDER, code=sources).build(replace(DEPLOYED, code=code)).code


@pytest.mark.parametrize(
    ("sources", "code", "expected"),
    [
        (CodeSources("ours"), DeployedCode(None, "k", SHA256), CodeRef("ours", "k", SHA256)),
        (CodeSources("ours", "bots/"), DeployedCode(None, "bots/k"), CodeRef("ours", "bots/k")),
        (CodeSources("ours", "bots/"), DeployedCode("ours", "bots/k"), CodeRef("ours", "bots/k")),
        (CodeSources("ours", "bots/"), DeployedCode(None, ".the0/code/k"), CodeRef("ours", ".the0/code/k")),
        (CodeSources("ours", "bots/"), DeployedCode("older", "k"), CodeRef("older", "k")),
        (CodeSources("ours", named=("older",), closed=("logs",)), DeployedCode("older", "k"), CodeRef("older", "k")),
        (CodeSources("ours", named=()), DeployedCode("ours", "k"), CodeRef("ours", "k")),
    ],
)
def test_code_is_taken_from_where_the_operator_allows_it(
    sources: CodeSources, code: DeployedCode, expected: CodeRef
) -> None:
    assert built_code(sources, code) == expected


@pytest.mark.parametrize(
    ("sources", "code", "field"),
    [
        (CodeSources("ours", "bots/"), DeployedCode(None, "k"), "custom.filePath"),
        (CodeSources("ours", "bots/"), DeployedCode(None, "bots"), "custom.filePath"),
        (CodeSources("ours", "bots/"), DeployedCode("ours", "k"), "custom.gcsPath"),
        (CodeSources("ours", closed=("logs",)), DeployedCode("logs", "k"), "custom.gcsPath"),
        (CodeSources("ours", named=("logs",), closed=("logs",)), DeployedCode("logs", "k"), "custom.gcsPath"),
        (CodeSources("ours", named=("older",)), DeployedCode("other", "k"), "custom.gcsPath"),
        (CodeSources("ours", named=()), DeployedCode("other", "k"), "custom.gcsPath"),
        (CodeSources("ours", "bots/"), DeployedCode(None, "bots/../k"), "custom.filePath"),
        (CodeSources("ours"), DeployedCode(None, "../theirs/k"), "custom.filePath"),
        (CodeSources("ours"), DeployedCode("theirs", "../ours/k"), "custom.gcsPath"),
        (CodeSources("ours"), DeployedCode(None, "k", SHA256[1:]), "custom.sha256"),
        (CodeSources("ours"), DeployedCode(None, "k", "x" * 64), "custom.sha256"),
    ],
)
def test_code_elsewhere_is_refused_with_the_field(sources: CodeSources, code: DeployedCode, field: str) -> None:
    with pytest.raises(DefinitionInvalid) as caught:
        built_code(sources, code)
    assert caught.value.field == field


def test_run_id_is_the_given_one_or_one_that_no_other_run_has() -> None:
    given = BUILDER.build(DEPLOYED, "r1").run_id
    made = {BUILDER.build(DEPLOYED).run_id for _ in range(2)}

    assert given == "r1"
    assert len(made - {"", "r1"}) == 2


def test_allow_list_of_hosts_is_part_of_the_executable_and_another_one_is_another_spec() -> None:
    narrowed = replace(DEPLOYED, config={"egress": ["b.example:443", "A.example:443"]})

    assert BUILDER.build(DEPLOYED).egress is None
    assert BUILDER.build(narrowed).egress == "a.example:443,b.example:443"
    assert BUILDER.build(replace(DEPLOYED, config={"egress": []})).egress == ""
    assert BUILDER.build(narrowed).spec_hash() != BUILDER.build(DEPLOYED).spec_hash()


def test_allow_list_that_the_operators_settings_cannot_enforce_is_an_error() -> None:
    narrowed = replace(DEPLOYED, config={"egress": ["a.example:443"]})
    unguarded = replace(BUILDER.settings, metadata_guard=False)

    with pytest.raises(UserError, match="BOT_METADATA_GUARD"):
        replace(BUILDER, settings=unguarded).build(narrowed)


def test_room_of_a_bot_is_that_of_its_executable() -> None:
    deployed = replace(DEPLOYED, config={"resources": {"memoryMb": 256, "cpus": 0.5}})

    assert BUILDER.room(deployed) == BUILDER.build(deployed).room


def test_executable_continues_the_trace_of_its_event() -> None:
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}

    assert BUILDER.build(replace(DEPLOYED, trace=trace)).traceparent == trace["traceparent"]


WITH_QUERIES = {"runtime": "python3.11", "entrypoints": {"bot": "main.py", "query": "query.py"}}


@pytest.mark.parametrize(
    ("answers_queries", "network", "query"),
    [(True, Network.BRIDGE, "query.py"), (False, Network.BRIDGE, None), (True, Network.HOST, None)],
)
def test_bot_answers_queries_beside_itself_where_its_service_does(
    answers_queries: bool, network: Network, query: str | None
) -> None:
    settings = replace(BUILDER.settings, network=network)
    builder = replace(BUILDER, settings=settings, answers_queries=answers_queries)

    assert builder.build(replace(DEPLOYED, bot=WITH_QUERIES)).query == query


def test_entrypoint_for_queries_is_part_of_the_spec() -> None:
    builder = replace(BUILDER, answers_queries=True)
    plain = builder.build(DEPLOYED)

    assert builder.build(replace(DEPLOYED, bot=WITH_QUERIES)).spec_hash() != plain.spec_hash()
    assert BUILDER.build(DEPLOYED).spec_hash() == plain.spec_hash()


def test_each_question_has_a_container_of_its_own_that_leaves_room_for_bots() -> None:
    deployed = replace(DEPLOYED, bot=WITH_QUERIES)
    first, second = (BUILDER.question(deployed, Question("/a", "{}"), 1024) for _ in range(2))

    assert len({first.name, second.name, BUILDER.build(deployed).name}) == 3
    assert (first.id, first.service, first.script, first.query) == ("b1", "queries-of-bot-runner", "query.py", None)
    assert (first.limits.result_bytes, first.priority) == (1024, Priority.BACKTEST)


def test_question_to_an_entity_without_queries_is_an_error_that_names_the_field() -> None:
    with pytest.raises(DefinitionInvalid, match=r"custom.config.entrypoints.query is missing"):
        BUILDER.question(DEPLOYED, Question("/a", "{}"), 1024)
