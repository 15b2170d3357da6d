"""The answers to queries when their stream ends."""

import asyncio

from libs.core.queries.messages import Query, QueryAnswer
from libs.core.worker.query_answers import QueryAnswers
from proto.runtime.v1 import coordination_pb2 as pb
from tests.support.eventually import eventually


class Stub:
    """Takes answers."""

    def __init__(self) -> None:
        self.answers: list[pb.QueryAnswer] = []

    async def Answer(self, answer: pb.QueryAnswer, **_: object) -> None:  # noqa: N802 - the protocol's name
        self.answers.append(answer)


async def test_query_that_ends_slowly_does_not_hold_up_the_next_stream() -> None:
    cleaned = asyncio.Event()
    begun = asyncio.Event()

    async def slow(query: Query) -> QueryAnswer:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await cleaned.wait()
        raise AssertionError("never answered")

    stub = Stub()
    answers = QueryAnswers(stub, (), slow)
    answers.begin(pb.Query(query_id=b"id", timeout_milliseconds=60_000))
    await begun.wait()

    async with asyncio.timeout(30):
        await answers.close()

    assert stub.answers == []
    cleaned.set()
    await eventually(lambda: "query" not in {task.get_name() for task in asyncio.all_tasks()})


async def test_query_without_an_answer_in_time_is_answered_as_a_timeout() -> None:
    async def never(query: Query) -> QueryAnswer:
        await asyncio.Event().wait()
        raise AssertionError("never answered")

    stub = Stub()
    answers = QueryAnswers(stub, (), never)

    answers.begin(pb.Query(query_id=b"id", timeout_milliseconds=10))

    await eventually(lambda: stub.answers)
    assert (stub.answers[0].query_id, stub.answers[0].fault) == (b"id", "timeout")


async def test_service_without_queries_says_so() -> None:
    stub = Stub()
    answers = QueryAnswers(stub, (), None)

    answers.begin(pb.Query(query_id=b"id", timeout_milliseconds=60_000))

    await eventually(lambda: stub.answers)
    assert stub.answers[0].fault == "no-entrypoint"
