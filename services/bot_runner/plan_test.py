from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.core.room import MIB, Need
from libs.core.store.releases import Rejection, RejectionReason, Release, Version
from libs.core.store.relocations import STOP_SECONDS, Relocation
from libs.docker_runner.containers.container import ContainerState, ManagedContainer
from libs.docker_runner.engine.room import Reservations
from libs.docker_runner.executable import CodeRef, Entrypoint, Executable, Placement
from services.bot_runner.desired_bot import DesiredBot, StopReason
from services.bot_runner.plan import Keep, Move, Reap, Start, Stop, plan
from services.bot_runner.restarts import RestartHistory
from services.bot_runner.verdicts import Ready, Refused, Unknown, Verdict

NOW = 1_000_000.0


def executable(bot_id: str = "b1", version: str = "1", revision: int = 1) -> Executable:
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
        revision=revision,
        keepalive=Path("/keepalive"),
    )


def accepted(revision: int = 1, etag: str = "e1") -> Release:
    return Release(current=Version(revision, {}, {"version": str(revision)}, etag))


def bot(bot_id: str = "b1", *, version: str = "1", etag: str = "e1", not_before: float = 0.0) -> DesiredBot:
    """A bot whose newest version is the one that was checked and accepted; its revision is the version's number."""
    revision = int(version)
    return DesiredBot(
        bot_id,
        revision,
        RestartHistory(not_before=not_before),
        executable=executable(bot_id, version, revision),
        version=Version(revision, {}, {"version": version}),
        verdict=Ready(etag),
        release=accepted(revision, etag),
    )


def updated(
    *, verdict: Verdict | None = None, rejection: Rejection | None = None, window_seconds: float | None = None
) -> DesiredBot:
    """The bot b1, of which version 1 is accepted and version 2 is new."""
    new = bot(version="2")
    version = replace(new.version or Version(2, {}, {}), window_seconds=window_seconds)
    return replace(
        new, version=version, verdict=verdict, rejection=rejection, release=accepted(), accepted=executable()
    )


def container(
    bot_id: str = "b1", state: ContainerState = ContainerState.RUNNING, *, version: str = "1", seconds: float = 3600.0
) -> ManagedContainer:
    """The container of a version, which runs since *seconds*."""
    return ManagedContainer(
        container_id=f"c-{bot_id}",
        name=f"the0-{bot_id}",
        id=bot_id,
        service="bot-runner",
        scope="s",
        entrypoint=Entrypoint.BOT,
        segment=0,
        spec_hash=executable(bot_id, version).spec_hash(),
        code_etag="e1",
        revision=int(version),
        run_id="r",
        epoch=1,
        worker="w",
        token="t",
        state=state,
        started_at=datetime.fromtimestamp(NOW - seconds, UTC),
    )


def test_a_bot_without_a_container_is_started() -> None:
    assert plan({"b1": bot()}, [], NOW).actions == [Start("b1", executable())]


def test_matching_container_is_kept_whichever_worker_started_it() -> None:
    decided = plan({"b1": bot()}, [container()], NOW)

    assert (decided.actions, decided.kept) == ([], [container()])


def test_a_new_version_of_the_code_stops_the_old_container_first() -> None:
    assert plan({"b1": bot(version="2")}, [container()], NOW).actions == [Stop("b1", container(), StopReason.CHANGED)]


def test_new_code_under_the_same_key_restarts_the_bot() -> None:
    same_spec = replace(bot(version="2", etag="e2"), executable=executable(revision=2))

    assert plan({"b1": same_spec}, [container()], NOW).actions == [Stop("b1", container(), StopReason.CHANGED)]


def test_new_version_is_checked_while_old_container_runs_on() -> None:
    decided = plan({"b1": updated()}, [container()], NOW)

    assert (decided.actions, decided.kept) == ([], [container()])
    assert decided.checks == {"b1": executable(version="2", revision=2)}


def test_new_version_is_checked_before_anything_starts_when_nothing_runs() -> None:
    decided = plan({"b1": updated()}, [], NOW)

    assert (decided.actions, list(decided.checks), decided.absent) == ([], ["b1"], {})


def test_checked_version_is_accepted_before_old_container_is_stopped() -> None:
    decided = plan({"b1": updated(verdict=Ready("e2"))}, [container()], NOW)

    version_2 = Version(2, {}, {"version": "2"}, "e2")
    assert decided.actions == [Keep("b1", Release(current=version_2, previous=accepted().current))]
    assert decided.kept == [container()]


def test_new_version_with_equal_spec_and_code_is_accepted_without_a_restart() -> None:
    same = replace(updated(verdict=Ready("e1")), executable=executable(revision=2))

    decided = plan({"b1": same}, [container()], NOW)

    assert decided.actions == [Keep("b1", Release(current=Version(2, {}, {"version": "2"}, "e1")))]


REJECTIONS = [
    pytest.param({"rejection": Rejection(2, RejectionReason.LIMITS, "too much")}, id="by its document"),
    pytest.param(
        {
            "rejection": Rejection(2, RejectionReason.ARCHIVE, "broken"),
            "verdict": Refused(Rejection(2, RejectionReason.ARCHIVE, "broken"), NOW + 300),
        },
        id="by its check",
    ),
    pytest.param({"verdict": Unknown("storage is away", NOW + 1)}, id="not known"),
]


@pytest.mark.parametrize("why", REJECTIONS)
def test_version_that_is_not_accepted_leaves_old_container_alone(why: dict[str, Any]) -> None:
    decided = plan({"b1": updated(**why)}, [container()], NOW)

    assert (decided.actions, decided.kept, decided.checks) == ([], [container()], {})


@pytest.mark.parametrize("why", REJECTIONS)
def test_accepted_version_is_started_where_newest_is_not_accepted(why: dict[str, Any]) -> None:
    decided = plan({"b1": updated(**why)}, [], NOW)

    assert (decided.actions, decided.absent) == ([Start("b1", executable())], {})


def test_refused_version_is_checked_again_when_its_time_has_come() -> None:
    rejection = Rejection(2, RejectionReason.CODE_MISSING, "gone")
    early = updated(rejection=rejection, verdict=Refused(rejection, NOW + 7))
    due = updated(rejection=rejection, verdict=Refused(rejection, NOW))

    assert plan({"b1": early}, [container()], NOW).next_round_at == NOW + 7
    assert list(plan({"b1": due}, [container()], NOW).checks) == ["b1"]


def test_container_of_unknown_earlier_version_runs_on_when_newest_is_rejected() -> None:
    """As after an upgrade from a runtime that kept no versions."""
    rejected = DesiredBot("b1", 2, RestartHistory(), rejection=Rejection(2, RejectionReason.RUNTIME, "unknown runtime"))

    assert plan({"b1": rejected}, [container()], NOW).kept == [container()]
    assert plan({"b1": rejected}, [], NOW).absent == {"b1": StopReason.REJECTED}


def test_container_of_rejected_version_itself_is_stopped() -> None:
    """As when the operator lowers the limits."""
    rejected = replace(bot(), executable=None, rejection=Rejection(1, RejectionReason.LIMITS, "too much"))

    assert plan({"b1": rejected}, [container()], NOW).actions == [Stop("b1", container(), StopReason.REJECTED)]


def test_changed_operator_setting_restarts_nothing_before_the_version_was_checked() -> None:
    other_image = replace(executable(), placement=Placement("python:3.11"))
    unchecked = replace(bot(), executable=other_image, verdict=None)

    decided = plan({"b1": unchecked}, [container()], NOW)

    assert (decided.actions, decided.checks) == ([], {"b1": other_image})
    checked = replace(unchecked, verdict=Ready("e1"))
    assert plan({"b1": checked}, [container()], NOW).actions == [Stop("b1", container(), StopReason.CHANGED)]


@pytest.mark.parametrize("absence", [StopReason.KILLED, StopReason.STOPPED, StopReason.DISABLED])
@pytest.mark.parametrize("why", [{}, *(case.values[0] for case in REJECTIONS)], ids=str)
def test_kill_and_disable_stop_whatever_the_versions_are(absence: StopReason, why: dict[str, Any]) -> None:
    stopped = replace(updated(**why), absence=absence)

    assert plan({"b1": stopped}, [container()], NOW).actions == [Stop("b1", container(), absence)]
    assert plan({"b1": stopped}, [], NOW).absent == {"b1": absence}


@pytest.mark.parametrize("absence", [None, StopReason.KILLED])
def test_what_ran_before_a_rest_is_forgotten_once_the_bot_is_changed(absence: StopReason | None) -> None:
    rejected = updated(rejection=Rejection(2, RejectionReason.LIMITS, "too much"))

    decided = plan({"b1": replace(rejected, release_is_void=True, absence=absence)}, [], NOW)

    assert (decided.actions, decided.absent) == ([Keep("b1", Release())], {})


def started(window_seconds: float | None) -> DesiredBot:
    """The bot b1, whose version 2 was accepted in place of version 1."""
    current = Version(2, {}, {"version": "2"}, "e1", window_seconds)
    return replace(bot(version="2"), release=Release(current=current, previous=accepted().current))


@pytest.mark.parametrize(("window_seconds", "seconds"), [(None, 0.0), (10.0, 10.0)])
def test_version_before_is_forgotten_once_new_one_runs_healthily(window_seconds: float | None, seconds: float) -> None:
    new = container(version="2", seconds=seconds)
    bot = started(window_seconds)

    assert plan({"b1": bot}, [new], NOW).actions == [Keep("b1", replace(bot.release, previous=None))]


def test_version_before_is_kept_during_the_health_window_and_looked_at_when_it_ends() -> None:
    decided = plan({"b1": started(10.0)}, [container(version="2", seconds=4.0)], NOW)

    assert (decided.actions, decided.next_round_at) == ([], NOW + 6.0)


def test_version_in_its_window_goes_on_when_newer_one_is_rejected() -> None:
    third = replace(
        started(10.0),
        revision=3,
        executable=None,
        rejection=Rejection(3, RejectionReason.LIMITS, "too much"),
        accepted=executable(version="2", revision=2),
    )

    assert plan({"b1": third}, [container(version="2", seconds=4.0)], NOW).actions == []
    assert plan({"b1": third}, [], NOW).actions == [Start("b1", executable(version="2", revision=2))]


def test_a_container_whose_bot_is_gone_is_stopped() -> None:
    assert plan({}, [container()], NOW).actions == [Stop("b1", container(), StopReason.DELETED)]


def test_a_disabled_bot_is_stopped_and_not_started_again() -> None:
    disabled = DesiredBot("b1", 1, RestartHistory(), absence=StopReason.DISABLED)

    assert plan({"b1": disabled}, [container()], NOW).actions == [Stop("b1", container(), StopReason.DISABLED)]
    assert plan({"b1": disabled}, [], NOW).actions == []


def test_a_dead_container_is_buried_before_its_bot_starts_again() -> None:
    dead = container(state=ContainerState.EXITED)

    assert plan({"b1": bot()}, [dead], NOW).actions == [Reap("b1", dead)]


def test_bot_in_backoff_waits_and_reports_until_when() -> None:
    decided = plan({"b1": bot(not_before=NOW + 7), "b2": bot("b2", not_before=NOW + 3)}, [], NOW)

    assert (decided.actions, decided.next_round_at) == ([], NOW + 3)


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
                actual[action.id] = container(action.id, version=action.executable.version)
            else:
                del actual[action.id]

    assert plan(desired, actual.values(), NOW).actions == []
    assert actual.keys() <= desired.keys()


@pytest.mark.parametrize("state", [ContainerState.RUNNING, ContainerState.EXITED])
def test_an_undecided_bot_keeps_its_running_container_and_is_rid_of_a_dead_one(state: ContainerState) -> None:
    undecided = DesiredBot("b1", 1, RestartHistory(), absence=StopReason.REJECTED, undecided=True)

    decided = plan({"b1": undecided}, [container(state=state)], NOW)

    assert list(decided.kept) == ([container()] if state is ContainerState.RUNNING else [])
    assert [type(action) for action in decided.actions] == ([] if state is ContainerState.RUNNING else [Reap])


def test_an_undecided_bot_is_not_started() -> None:
    assert plan({"b1": DesiredBot("b1", 1, RestartHistory(), undecided=True)}, [], NOW).actions == []


def room(free_mib: int, *bots: str) -> Reservations:
    """An engine on which these *bots* run beside another container."""
    by_name = {"other": Need(512 * MIB), **{executable(bot_id).room.name: Need(512 * MIB) for bot_id in bots}}
    return Reservations(Need((free_mib + 512 * len(by_name)) * MIB), Need(512 * MIB), Need(), by_name)


def test_of_bots_that_would_start_now_those_without_room_wait() -> None:
    decided = plan({"b1": bot("b1"), "b2": bot("b2"), "b3": bot("b3")}, [], NOW, room(1100))

    assert [action.id for action in decided.actions] == ["b1", "b2"]
    assert [wait.id for wait in decided.waiting] == ["b3"]
    assert str(decided.waiting[0].shortage) == "needs 512 MiB, the engine has 76 MiB free"


def test_a_bot_that_backs_off_does_not_wait_for_room() -> None:
    decided = plan({"b1": bot(not_before=NOW + 5)}, [], NOW, room(0))

    assert (decided.waiting, decided.next_round_at) == ([], NOW + 5)


def test_stops_and_running_bots_need_no_room() -> None:
    desired = {"b1": bot("b1"), "b2": bot("b2", version="2"), "b4": bot("b4")}
    actual = [container("b1"), container("b2"), container("b3")]
    decided = plan(desired, actual, NOW, room(-512, "b1", "b2", "b3"))

    assert [(action.id, action.reason) for action in decided.actions if isinstance(action, Stop)] == [
        ("b2", StopReason.CHANGED),
        ("b3", StopReason.DELETED),
    ]
    assert decided.kept == [container("b1")]
    assert [wait.id for wait in decided.waiting] == ["b4"]


def test_without_knowledge_of_room_every_bot_is_tried() -> None:
    decided = plan({f"b{number}": bot(f"b{number}") for number in range(50)}, [], NOW, None)

    assert len(decided.actions) == 50


def order(*, left_seconds: float = STOP_SECONDS + 1) -> Relocation:
    return Relocation("o", 1, 2, revision=1, reason="compaction", deadline=NOW + left_seconds)


def test_bot_that_is_ordered_to_move_is_stopped_first_and_then_moved() -> None:
    moving = replace(bot(), relocation=order())

    assert plan({"b1": moving}, [container()], NOW).actions == [
        Stop("b1", container(), StopReason.MOVED, moving.relocation)
    ]
    assert plan({"b1": moving}, [], NOW).actions == [Move("b1", order())]


def test_bot_is_not_stopped_for_a_move_with_too_little_time_left_for_its_grace_period() -> None:
    late = replace(bot(), relocation=order(left_seconds=STOP_SECONDS))

    planned = plan({"b1": late}, [container()], NOW)

    assert (planned.actions, planned.kept) == ([], [container()])


def test_dead_container_of_a_moving_bot_is_reaped_before_it_moves() -> None:
    dead = container(state=ContainerState.EXITED)

    assert plan({"b1": replace(bot(), relocation=order())}, [dead], NOW).actions == [Reap("b1", dead)]


def test_bot_in_backoff_is_not_moved_before_it_ends() -> None:
    failing = replace(bot(not_before=NOW + 5), relocation=order())

    planned = plan({"b1": failing}, [], NOW)

    assert (planned.actions, planned.next_round_at) == ([], NOW + 5)


@pytest.mark.parametrize("reason", [StopReason.KILLED, StopReason.STOPPED, StopReason.MISPLACED])
def test_bot_that_must_not_run_is_not_moved(reason: StopReason) -> None:
    assert plan({"b1": replace(bot(), relocation=order(), absence=reason)}, [], NOW).actions == []


def test_disabled_bot_is_moved_and_still_counts_as_disabled() -> None:
    disabled = replace(bot(), relocation=order(), absence=StopReason.DISABLED)

    planned = plan({"b1": disabled}, [], NOW)

    assert planned.actions == [Move("b1", order())]
    assert planned.absent == {"b1": StopReason.DISABLED}


def test_version_that_waits_to_be_accepted_is_accepted_before_its_bot_moves() -> None:
    moving = replace(updated(verdict=Ready("e2")), relocation=order())

    assert isinstance(plan({"b1": moving}, [container()], NOW).actions[0], Keep)


def test_standby_is_made_of_what_replaces_the_stopped_container() -> None:
    decided = plan({"b1": bot(version="2")}, [container()], NOW, room(512, "b1"), standbys=True)

    successor = executable(version="2", revision=2)
    assert decided.actions == [Stop("b1", container(), StopReason.CHANGED, successor=successor)]


GVISOR = replace(
    executable(version="2", revision=2), placement=Placement("python:3.11-slim", container_runtime="runsc")
)


@pytest.mark.parametrize(
    ("changed", "free_mib", "standbys"),
    [
        (bot(version="2"), 512, False),
        (bot(version="2"), 511, True),
        (bot(version="2"), None, True),
        (bot(version="2", not_before=NOW + 1), 512, True),
        (replace(bot(version="2"), executable=GVISOR), 512, True),
        (replace(bot(version="2"), relocation=Relocation("o", 0, 1, 2, "r", NOW + 60)), 512, True),
        (replace(bot(version="2"), absence=StopReason.DISABLED), 512, True),
    ],
    ids=["off", "no room", "room unknown", "backs off", "gvisor", "moves", "disabled"],
)
def test_no_standby_is_made(changed: DesiredBot, free_mib: int | None, standbys: bool) -> None:
    free = room(free_mib, "b1") if free_mib is not None else None

    [action] = plan({"b1": changed}, [container()], NOW, free, standbys=standbys).actions

    assert isinstance(action, Stop)
    assert action.successor is None
