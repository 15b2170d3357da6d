"""The short form: one fault of each family against a whole deployment, watched from outside.

The report, the ticks and the logs of all processes are left in the folder `chaos` of the artifacts.
"""

import json
import os
import sys

import pytest

from tests.chaos import __main__ as command
from tests.chaos.schedule import SHORT, together
from tests.support.rigs.status_rig import artifacts
from tests.support.servers.own_engine import require_root
from tools.stack.process import BackgroundProcess

_LONGEST_SECONDS = 780.0
_FEWEST_FAULTS = 10
_OVERLOADED = 5.0


@pytest.mark.timeout(860)
async def test_every_law_holds_under_one_fault_of_each_family() -> None:
    require_root()
    output = artifacts() / "chaos"
    # In a process of its own: its proxies and its observer do not wait for pytest.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    arguments = ["--short", "--minutes", "7", "--output", str(output)]
    chaos = BackgroundProcess(
        "chaos", [sys.executable, "-P", "-m", str(command.__package__), *arguments], output / "chaos.log", environment
    )
    (output / "report.json").unlink(missing_ok=True)

    chaos.launch()
    try:
        exit_code = await chaos.wait(_LONGEST_SECONDS)
    except TimeoutError:
        raise chaos.failure(f"took longer than {_LONGEST_SECONDS:g} s") from None
    finally:
        await chaos.stop(grace_seconds=60)

    if not (output / "report.json").exists():
        raise chaos.failure("wrote no report")
    report = json.loads((output / "report.json").read_text())
    broken = {law: violations for law, violations in report["violations"].items() if violations}
    assert broken == {}, f"see {output}"
    assert exit_code == 0
    # On a very busy machine there is no time for the last ones.
    happened = [fault["name"] for fault in report["faults"]]
    assert happened == [name for names in together(SHORT) for name in names][: len(happened)]
    assert len(happened) >= (_FEWEST_FAULTS if report["slowness"] < _OVERLOADED else 1)
