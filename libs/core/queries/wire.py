"""Queries and their answers between masters and workers."""

from libs.core.queries.messages import Query, QueryAnswer, QueryFault
from proto.runtime.v1 import coordination_pb2 as pb


def query_to_wire(query: Query, query_id: bytes) -> pb.Query:
    """Return the message for *query*."""
    return pb.Query(
        query_id=query_id,
        entity_id=query.entity_id,
        segment_id=query.segment_id,
        path=query.path,
        parameters=query.parameters.encode(),
        timeout_milliseconds=max(1, round(query.timeout_seconds * 1000)),
    )


def query_from_wire(message: pb.Query) -> Query:
    """Return the query in *message*."""
    return Query(
        entity_id=message.entity_id,
        path=message.path,
        parameters=message.parameters.decode("utf-8", "replace"),
        timeout_seconds=message.timeout_milliseconds / 1000,
        segment_id=message.segment_id,
    )


def answer_to_wire(answer: QueryAnswer, query_id: bytes) -> pb.QueryAnswer:
    """Return the message for *answer*."""
    return pb.QueryAnswer(query_id=query_id, fault=answer.fault or "", body=answer.body)


def answer_from_wire(message: pb.QueryAnswer) -> QueryAnswer:
    """Return the answer in *message*; a fault that only a newer version knows is an internal error."""
    if not message.fault:
        return QueryAnswer(message.body)
    try:
        return QueryAnswer(message.body, QueryFault(message.fault))
    except ValueError:
        return QueryAnswer(message.body, QueryFault.INTERNAL)
