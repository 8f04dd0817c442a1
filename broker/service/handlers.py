"""How a request finds its handler: by its class.

    @handles(p.GiveBack)
    def give_back(self, request: p.GiveBack, call: Call) -> p.Done: ...

The type checker holds the method to the request in the brackets and to that request's reply.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Generic, NamedTuple, TypeVar

from broker.protocol import REQUESTS, Request
from common.types import Record

Reply = TypeVar("Reply", bound=Record, covariant=True)
Message = TypeVar("Message", bound=Request[Record], covariant=True)
Requests = TypeVar("Requests")  # the class whose method a handler is


class Call(NamedTuple):
    """The circumstances of one request."""

    peer: bytes  # the connection that it came over, and that its reply goes to
    request_id: bytes  # the same when it is sent again
    now: float  # seconds on the broker's clock


@dataclass(frozen=True)
class Held(Generic[Reply]):
    """The outcome of a `HeldRequest`: a reply now, later, or when its time is over."""

    answer: Callable[[float], Reply | None]  # from the time; None while there is none
    empty: Callable[[], Reply]  # the reply when the request's `wait_s` is over


Handler = Callable[[Any, Call], Record | Held[Record]]
_HANDLED: dict[FunctionType, type[Request[Record]]] = {}


class handles(Generic[Message]):
    """Decorator of the method that handles one class of requests."""

    def __init__(self, kind: type[Message]) -> None:
        name = kind.__name__
        if name not in REQUESTS:
            raise TypeError(
                f"{name} does not say who may send it. Fix: class {name}(..., senders=...)"
            )
        self._kind = kind

    def __call__(
        self: "handles[Request[Reply]]",
        method: Callable[[Requests, Message, Call], Reply | Held[Reply]],
    ) -> Callable[[Requests, Message, Call], Reply | Held[Reply]]:
        assert isinstance(method, FunctionType)
        _HANDLED[method] = self._kind
        return method


def handlers_of(*objects: object) -> Mapping[type[Request[Record]], Handler]:
    """The marked methods of some objects, by the class of request that each handles.

    Raises:
        TypeError: two of them handle the same requests.
    """
    found: dict[type[Request[Record]], Handler] = {}
    for owner in objects:
        for method in vars(type(owner)).values():
            if isinstance(method, FunctionType) and (kind := _HANDLED.get(method)) is not None:
                if kind in found:
                    raise TypeError(
                        f"{kind.__name__} has two handlers, one is {method.__qualname__}"
                    )
                found[kind] = method.__get__(owner)
    return found
