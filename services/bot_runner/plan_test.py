from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.docker_runner.container import ContainerState, ManagedContainer
from libs.docker_runner.executable import CodeRef, Entrypoint, Executable, Placement
from services.bot_runner.plan import Bury, DesiredBot, Start, Stop, StopReason, plan
from services.bot_runner.restarts import RestartHistory

NOW = 1_000_000.0


def executable(bot_id: str = "b1", version: str = "1") -> Executable:
    return Executable(
        id=bot_id,
        service="bot-runner",
        scope="s",
        runtime="python3.11",
        entrypoint=Entrypoint.BOT,
        script="main.py",
        code=CodeRef("bots", bot_id),
        placement=Placement("python:3.11-slim"),
        version=version,
        keepalive=Path("/keepalive"),
    )


def bot(bot_id: str = "b1", *, version: str = "1", etag: str | None = "e1", not_before: float = 0.0) -> DesiredBot:
    history = RestartHistory(not_before=not_before)
    return DesiredBot(bot_id, 1, history, executable=executable(bot_id, version), code_etag=etag)


def container(bot_id: str = "b1", state: ContainerState = ContainerState.RUNNING) -> ManagedContainer:
    return ManagedContainer(
        container_id=f"c-{bot_id}",
        name=f"the0-{bot_id}",
        id=bot_id,
        service="bot-runner",
        scope="s",
        entrypoint=Entrypoint.BOT,
        segment=0,
        spec_hash=executable(bot_id).spec_hash(),
        code_etag="e1",
        revision=1,
        run_id="r",
        epoch=1,
        worker="w",
        token="t",
        state=state,
    )


def test_a_bot_without_a_container_is_started() -> None:
    assert plan({"b1": bot()}, [], NOW).actions == [Start("b1", executable())]


def test_a_container_that_matches_is_left_alone_whoever_started_it() -> None:
    decided = plan({"b1": bot()}, [container()], NOW)

    assert (decided.actions, decided.kept) == ([], [container()])


def test_a_new_version_of_the_code_stops_the_old_container_first() -> None:
    assert plan({"b1": bot(version="2")}, [container()], NOW).actions == [Stop("b1", container(), StopReason.CHANGED)]


def test_new_code_under_the_same_key_restarts_the_bot() -> None:
    assert plan({"b1": bot(etag="e2")}, [container()], NOW).actions == [Stop("b1", container(), StopReason.CHANGED)]


def test_a_bot_runs_on_while_nobody_can_say_which_code_is_current() -> None:
    assert plan({"b1": bot(etag=None)}, [container()], NOW).actions == []


def test_a_container_whose_bot_is_gone_is_stopped() -> None:
    assert plan({}, [container()], NOW).actions == [Stop("b1", container(), StopReason.DELETED)]


def test_a_disabled_bot_is_stopped_and_not_started_again() -> None:
    disabled = DesiredBot("b1", 1, RestartHistory(), absence=StopReason.DISABLED)

    assert plan({"b1": disabled}, [container()], NOW).actions == [Stop("b1", container(), StopReason.DISABLED)]
    assert plan({"b1": disabled}, [], NOW).actions == []


def test_a_dead_container_is_buried_before_its_bot_starts_again() -> None:
    dead = container(state=ContainerState.EXITED)

    assert plan({"b1": bot()}, [dead], NOW).actions == [Bury("b1", dead)]


def test_a_bot_in_backoff_waits_and_says_until_when() -> None:
    decided = plan({"b1": bot(not_before=NOW + 7), "b2": bot("b2", not_before=NOW + 3)}, [], NOW)

    assert (decided.actions, decided.next_start) == ([], NOW + 3)


BOTS = st.dictionaries(
    st.sampled_from(["b1", "b2", "b3"]), st.tuples(st.sampled_from(["1", "2"]), st.floats(0, 2 * NOW)), max_size=3
)
CONTAINERS = st.dictionaries(st.sampled_from(["b1", "b2", "b3", "b4"]), st.sampled_from(ContainerState), max_size=4)


@given(BOTS, CONTAINERS)
def test_carrying_out_plans_ends_with_what_is_desired_and_nothing_to_do(
    bots: dict[str, tuple[str, float]], containers: dict[str, ContainerState]
) -> None:
    desired = {name: bot(name, version=version, not_before=wait) for name, (version, wait) in bots.items()}
    actual = {name: container(name, state) for name, state in containers.items()}
    for _ in range(3):
        for action in plan(desired, actual.values(), NOW).actions:
            assert (action.id in actual) is not isinstance(action, Start)
            if isinstance(action, Start):
                actual[action.id] = replace(container(action.id), spec_hash=action.executable.spec_hash())
            else:
                del actual[action.id]

    assert plan(desired, actual.values(), NOW).actions == []
    assert actual.keys() <= desired.keys()


@pytest.mark.parametrize("state", [ContainerState.RUNNING, ContainerState.EXITED])
def test_an_undecided_bot_keeps_its_running_container_and_is_rid_of_a_dead_one(state: ContainerState) -> None:
    undecided = DesiredBot("b1", 1, RestartHistory(), absence=StopReason.REJECTED, undecided=True)

    decided = plan({"b1": undecided}, [container(state=state)], NOW)

    assert list(decided.kept) == ([container()] if state is ContainerState.RUNNING else [])
    assert [type(action) for action in decided.actions] == ([] if state is ContainerState.RUNNING else [Bury])


def test_an_undecided_bot_is_not_started() -> None:
    assert plan({"b1": DesiredBot("b1", 1, RestartHistory(), undecided=True)}, [], NOW).actions == []
