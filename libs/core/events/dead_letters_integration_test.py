"""Events that cannot be applied are put aside, with all that a person needs to judge them, and can be sent again."""

from functools import partial
from typing import Any

import pytest

from libs.core.events.dead_letters import DeadLetterMissing
from tests.support.eventually import eventually
from tests.support.rigs.event_rig import EventRig, ingesting_rig, payload

__all__ = ["ingesting_rig"]


async def test_poison_is_put_aside_at_once_with_its_reason_and_headers(rig: EventRig) -> None:
    await rig.start_worker()
    await rig.raw(b'{"id": 7}', {"Nats-Msg-Id": "m1", "traceparent": "00-a-b-01"})
    await rig.raw(b"not json")
    await rig.created("good")
    letters = await eventually(lambda: two_letters(rig))
    assert letters[0].reason == "id: must be a string, not a number"
    assert "not JSON" in letters[1].reason
    first = letters[0]
    assert (first.service, first.attempts, first.subject, first.data) == (
        rig.service.name,
        1,
        rig.service.created_subject,
        b'{"id": 7}',
    )
    assert first.headers == {"Nats-Msg-Id": "m1", "traceparent": "00-a-b-01"}
    assert first.sequence == 1
    await eventually(rig.all_acknowledged)
    assert await rig.ids() == {"good"}


async def two_letters(rig: EventRig) -> Any:
    letters = await rig.dead_letters.list(rig.service.name)
    # Two that come at once may be put aside in any order.
    return sorted(letters, key=lambda letter: letter.sequence) if len(letters) == 2 else None


class FailingStore:
    """A store that fails for some entities with an unexpected error, until the test ends that."""

    def __init__(self, store: Any, bad_ids: set[str]) -> None:
        self._store = store
        self.bad_ids = bad_ids
        self.failures = 0

    async def apply(self, events: Any) -> Any:
        if any(event.id in self.bad_ids for event in events):
            self.failures += len(events) == 1
            raise ValueError("a defect")
        return await self._store.apply(events)


async def test_an_event_that_fails_again_and_again_is_put_aside_after_the_retries(rig: EventRig) -> None:
    failing = FailingStore(rig.store(), {"bad"})
    await rig.start_worker(store=failing, max_retries=3)  # type: ignore[arg-type]
    for bot_id in ("a", "bad", "c"):
        await rig.created(bot_id)
    [letter] = await eventually(lambda: rig.dead_letters.list())
    assert (letter.attempts, letter.reason, letter.entity_id) == (3, "ValueError: a defect", "bad")
    assert failing.failures == 3
    await eventually(partial(rig.has_just, "a", "c"))


async def test_a_dead_letter_can_be_replayed_and_keeps_its_place(rig: EventRig) -> None:
    failing = FailingStore(rig.store(), {"bad"})
    await rig.start_worker(store=failing, max_retries=1)  # type: ignore[arg-type]
    await rig.raw(payload("bad", updated_at="", n=1))
    [letter] = await eventually(lambda: rig.dead_letters.list())
    failing.bad_ids.clear()
    await rig.updated("bad", n=2)
    await eventually(lambda: rig.has("bad"))
    await rig.dead_letters.replay(letter.number)
    assert await rig.dead_letters.list() == []
    await eventually(rig.all_acknowledged)
    bot = await rig.bots.find_one({"id": "bad"})
    assert bot["config"] == {"n": 2}
    with pytest.raises(DeadLetterMissing):
        await rig.dead_letters.show(letter.number)


async def test_dead_letters_can_be_purged_one_and_all(rig: EventRig) -> None:
    await rig.start_worker()
    for _ in range(2):
        await rig.raw(b"?")
    letters = await eventually(lambda: two_letters(rig))
    assert await rig.dead_letters.count(rig.service.name) == len(letters)
    assert await rig.dead_letters.count("somebody-else") == 0
    assert await rig.dead_letters.purge(number=letters[0].number) == 1
    assert await rig.dead_letters.purge(rig.service.name) == 1
    assert await rig.dead_letters.list() == []


async def test_a_poisonous_event_almost_as_large_as_the_server_allows_is_put_aside_without_its_payload(
    rig: EventRig,
) -> None:
    await rig.start_worker()
    await rig.raw(b"?" * (1024 * 1024 - 10))
    [letter] = await eventually(lambda: rig.dead_letters.list())
    assert (letter.payload_lost, letter.data) == (True, b"")
