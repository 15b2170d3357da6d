import os
import stat
from pathlib import Path

from tools.dev.home import home
from tools.dev.state import Part, StackState, load, save
from tools.stack.process_identity import ProcessIdentity


def test_a_state_is_read_as_it_was_written_and_only_its_owner_may(tmp_path: Path) -> None:
    part = Part("nats", ProcessIdentity.of(os.getpid()), 4222, "/log", None)
    state = StackState({"nats": 4222}, (part,), {"NATS_URL": "nats://x"}, ("scope",))

    save(tmp_path, state)

    assert load(tmp_path) == state
    assert load(tmp_path).running
    assert stat.S_IMODE((tmp_path / "stack.json").stat().st_mode) == 0o600


def test_a_process_that_only_has_the_same_id_does_not_count_as_running(tmp_path: Path) -> None:
    part = Part("nats", ProcessIdentity(os.getpid(), started_ticks=1), 4222, "/log")

    assert not StackState(parts=(part,)).running


def test_a_file_that_is_cut_short_counts_as_no_stack(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text('{"ports": {')

    assert load(tmp_path) == StackState()


def test_the_home_is_chosen_by_the_user_or_by_the_desktop_standard() -> None:
    assert home({"RUNTIME_HOME": "/r", "XDG_STATE_HOME": "/x"}) == Path("/r")
    assert home({"XDG_STATE_HOME": "/x"}) == Path("/x/the0-runtime")
    assert home({}) == Path.home() / ".local/state/the0-runtime"
