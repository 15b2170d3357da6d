"""Count and time gRPC calls: one operation for each call; a stream is one call, regardless of its length."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from libs.core.observability.metrics import record

_REFUSALS = frozenset(
    {
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
_UNKNOWN = "unknown method"
_KINDS: tuple[tuple[str, Callable[..., Any]], ...] = (
    ("unary_unary", grpc.unary_unary_rpc_method_handler),
    ("unary_stream", grpc.unary_stream_rpc_method_handler),
    ("stream_unary", grpc.stream_unary_rpc_method_handler),
    ("stream_stream", grpc.stream_stream_rpc_method_handler),
)


def call_outcome(code: grpc.StatusCode | None) -> str:
    """Return the outcome of a call with status *code*: ``ok``, ``refused``, ``cancelled`` or ``error``."""
    if code is None or code is grpc.StatusCode.OK:
        return "ok"
    if code in _REFUSALS:
        return "refused"
    return "cancelled" if code is grpc.StatusCode.CANCELLED else "error"


class ServerMetrics(grpc.aio.ServerInterceptor):
    """Records each call as an operation of the system ``grpc``: ``serve`` and the method's name."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Return the method's own handler, measured."""
        handler = await continuation(handler_call_details)
        if handler is None:
            # The name is chosen by the client.
            record("grpc", f"serve {_UNKNOWN}", "refused", 0.0)
            return handler
        name = handler_call_details.method.rpartition("/")[2]
        for kind, make in _KINDS:
            behaviour = getattr(handler, kind)
            if behaviour is not None and inspect.iscoroutinefunction(behaviour):
                return make(  # type: ignore[no-any-return]
                    _measured(name, behaviour),
                    request_deserializer=handler.request_deserializer,
                    response_serializer=handler.response_serializer,
                )
        return handler


def _measured(name: str, behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    async def call(request: Any, context: Any) -> Any:
        begun, outcome = time.perf_counter(), "error"
        try:
            answer = await behaviour(request, context)
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except grpc.aio.AbortError:
            outcome = call_outcome(_code(context))
            raise
        else:
            outcome = call_outcome(_code(context))
            return answer
        finally:
            record("grpc", f"serve {name}", outcome, time.perf_counter() - begun)

    return call


def _code(context: Any) -> grpc.StatusCode | None:
    """Return the status that the method set; None means OK."""
    code = context.code()
    return next((status for status in grpc.StatusCode if code in (status, status.value[0])), None)
