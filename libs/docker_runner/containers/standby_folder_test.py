"""When the run of a container that was a standby begins, and what counts before."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from libs.docker_runner.containers.container import ContainerState, Label, ManagedContainer, from_labels
from libs.docker_runner.containers.standby_folder import StandbyFolder, as_run

STARTED = datetime(2026, 1, 1, tzinfo=UTC)
LATER = STARTED + timedelta(seconds=20)


def was_standby(state: ContainerState, started_at: datetime | None = STARTED) -> ManagedContainer:
    return from_labels({Label.STANDBY: "n"}, container_id="c", name="n", state=state, started_at=started_at)


@pytest.mark.parametrize(
    ("state", "seen"),
    [
        (ContainerState.RUNNING, ContainerState.CREATED),
        (ContainerState.EXITED, ContainerState.EXITED),
        (ContainerState.CREATED, ContainerState.CREATED),
    ],
)
def test_container_that_was_not_let_go_counts_as_not_started(state: ContainerState, seen: ContainerState) -> None:
    assert as_run(was_standby(state), None) == was_standby(seen)


@pytest.mark.parametrize(
    ("started_at", "seen"),
    [(STARTED, LATER), (LATER + timedelta(seconds=1), LATER + timedelta(seconds=1)), (None, None)],
)
def test_run_begins_when_it_was_let_go(started_at: datetime | None, seen: datetime | None) -> None:
    container = was_standby(ContainerState.RUNNING, started_at)

    assert as_run(container, LATER) == replace(container, started_at=seen)


def test_word_is_of_this_start_alone_and_says_whether_there_is_a_state(tmp_path: Path) -> None:
    folder = StandbyFolder(tmp_path / "standby", "token.7")
    folder.create()
    assert folder.let_go_at() is None

    folder.let_go(restored=True)

    assert (tmp_path / "standby" / "go").read_text() == "token.7 1\n"
    assert folder.let_go_at() is not None
    assert [path.name for path in (tmp_path / "standby").iterdir()] == ["go"]


def test_removed_folder_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        StandbyFolder(tmp_path / "standby", "token.7").let_go_at()
