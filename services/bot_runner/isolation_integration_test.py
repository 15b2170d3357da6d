"""What one bot's action, or one bot's document, does wrong costs the other bots of its segment nothing."""

from typing import Any

import pytest
from prometheus_client import REGISTRY

from libs.core.store.holds import HoldTarget
from libs.docker_runner.containers.container import Ended, EndReason, ManagedContainer
from libs.docker_runner.executable import Executable
from tests.support.eventually import eventually
from tests.support.fakes.fake_host import FakeHost
from tests.support.rigs.bot_rig import BotRig, bot_rig

__all__ = ["bot_rig"]


class Rotten(FakeHost):
    """A host on which one call for the bot ``bad`` raises, as often as it is made."""

    def spoil(self, call: str, error: Exception) -> None:
        """Let *call* raise *error* from now on."""
        self.spoilt, self.error, self.asked = call, error, 0

    async def start(self, executable: Executable) -> ManagedContainer:
        self._refuse("start", executable.id)
        return await super().start(executable)

    async def stop(
        self, container: ManagedContainer, grace_seconds: float = 30.0, reason: EndReason = EndReason.STOPPED
    ) -> Ended:
        self._refuse("stop", container.id)
        return await super().stop(container, grace_seconds, reason)

    async def remove(self, container: ManagedContainer) -> Ended:
        self._refuse("remove", container.id)
        return await super().remove(container)

    def _refuse(self, call: str, bot_id: str) -> None:
        if bot_id == "bad" and getattr(self, "spoilt", "") == call:
            self.asked += 1
            raise self.error


def rotten(rig: BotRig) -> Rotten:
    host = Rotten("host", run_seconds=None, made=rig._made)
    rig._hosts.append(host)
    return host


def unexpected(where: str) -> float:
    return REGISTRY.get_sample_value("runtime_unexpected_errors_total", {"where": where}) or 0.0


async def state(rig: BotRig, bot_id: str) -> Any:
    return (await rig.status(bot_id)).get("state")


ERRORS = [OSError(5, "Input/output error"), ValueError("a defect"), ExceptionGroup("several", [KeyError("x")])]


@pytest.mark.parametrize("call", ["stop", "remove"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_a_kill_switch_acts_on_the_others_when_one_bot_cannot_be_stopped(
    rig: BotRig, call: str, error: Exception
) -> None:
    host = rotten(rig)
    for bot_id in ("bad", "good", "other"):
        await rig.deploy(bot_id)
    async with rig.owned_by(host) as owned:
        await eventually(lambda: len(host.containers) == 3)
        host.spoil(call, error)
        before = unexpected("act on bot")
        await rig.entities.holds.hold(HoldTarget.everything())
        owned.wake.set()

        await eventually(lambda: not host.alive("good") and not host.alive("other"))
        await eventually(lambda: host.asked >= 2 and unexpected("act on bot") >= before + 2)
        host.spoil("", error)
        await eventually(lambda: not host.containers)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_unexpectedly_failing_start_is_reported_to_its_owner_and_retried(rig: BotRig, error: Exception) -> None:
    host = rotten(rig)
    host.spoil("start", error)
    for bot_id in ("bad", "good"):
        await rig.deploy(bot_id)
    async with rig.owned_by(host):
        await eventually(lambda: host.alive("good"))
        await eventually(lambda: host.asked >= 3)
        status = await rig.status("bad")
        assert status["state"] in ("starting", "backing-off")
        assert await eventually(lambda: detail_with(rig, type(error).__name__))
        host.spoil("", error)

        await eventually(lambda: host.alive("bad"))
    assert rig.doubles == []


async def detail_with(rig: BotRig, text: str) -> bool:
    return text in (await rig.status("bad"))["detail"]


BROKEN = [
    {"revision": "seven"},
    {"revision": float("inf")},
    {"config": ["a", "list"]},
    {"custom": {"config": {"runtime": {"$": 1}, "entrypoints": "main.py"}, "filePath": "code.zip"}},
    {"status": {"not_before": float("inf"), "failures": float("nan"), "restarts": []}},
    {"status": "a word"},
    {"trace": {"traceparent": 7}},
    {"trace": {"traceparent": ["x"]}, "event": "none"},
    {"config": {"enabled": [1, 2], "resources": {"memory_mb": float("nan")}}},
]


@pytest.mark.parametrize("fields", BROKEN, ids=repr)
async def test_a_broken_document_hides_no_other_bot_of_its_segment(rig: BotRig, fields: dict[str, Any]) -> None:
    host = rig.host()
    for bot_id in ("a", "bad", "z"):
        await rig.deploy(bot_id)
    await rig.database["bots"].update_one({"id": "bad"}, {"$set": fields})
    async with rig.owned_by(host) as owned:
        await eventually(lambda: host.alive("a") and host.alive("z"))
        await rig.entities.holds.hold(HoldTarget.everything())
        owned.wake.set()

        await eventually(lambda: not [c for c in host.containers.values() if host.alive(c.id)])


async def test_a_document_that_breaks_under_a_running_bot_leaves_it_running(rig: BotRig) -> None:
    host = rig.host()
    for bot_id in ("a", "bad"):
        await rig.deploy(bot_id)
    async with rig.owned_by(host) as owned:
        await eventually(lambda: host.alive("a") and host.alive("bad"))
        await rig.database["bots"].update_one({"id": "bad"}, {"$set": {"custom": {"config": 7, "filePath": {"x": 1}}}})
        await rig.deploy("a", changed=True)
        owned.wake.set()

        await eventually(lambda: len(host.starts) == 3)
        assert [start.entity_id for start in host.starts].count("bad") == 1
