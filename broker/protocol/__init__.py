"""The messages between the broker and its clients: one request, one reply.

    request     what a request says of itself: senders, reply, whether it needs the store, limits
    members     of every member: hello, heartbeat, goodbye
    rollout     of rollout servers: leases, groups, news of the weights
    learner     of the learner: batches, checkpoints, pushes, the end
    evaluation  of both: held-out questions and their answers
    status      of anyone: the run's status, the dataset's images

A request may be sent again after a time-out: every one of them is idempotent or fenced. Times are
durations in seconds; no two machines need agree on the clock.

To add a request: its class, with its reply before it, in one of the files above; a method marked
`@handles(TheRequest)` in the `*_requests.py` of the same name in `broker.service`; a method of
`broker.client.BrokerClient` that sends it. Nothing lists requests: the tables below are made from
the classes. tests/broker/test_protocol.py fails while one of the three is missing, or while
PROTOCOL_VERSION stays as it was; tests/common/support.py wants an example, and
tests/broker/service/test_rights.py the roles. Look first whether `Welcome`, which each member has
from its hello, tells it already.
"""

from broker.protocol.evaluation import *  # noqa: F403
from broker.protocol.learner import *  # noqa: F403
from broker.protocol.members import *  # noqa: F403
from broker.protocol.request import *  # noqa: F403
from broker.protocol.request import REQUESTS, MemberRequest, Refused, Request
from broker.protocol.rollout import *  # noqa: F403
from broker.protocol.status import *  # noqa: F403
from common.errors import ProtocolError
from common.types import Record
from common.wire import MAX_FRAME_BYTES, Limits, decode

_REPLIES: list[type[Record]] = [Refused, *(kind.reply_type() for kind in REQUESTS.values())]
REPLIES = {kind.__name__: kind for kind in _REPLIES}
LIMITS: dict[str, Limits] = {  # what a frame of a client may hold, beside broker.max_frame_mib
    name: kind.limits for name, kind in REQUESTS.items()
}


def read_request(
    frame: bytes, attached: bytes | None = None, max_bytes: int = MAX_FRAME_BYTES
) -> Request[Record]:
    """The request in the frames of a message that a client has sent.

    Raises:
        ProtocolError: as `decode`, or the request does not say which member sends it.
    """
    request = decode(frame, REQUESTS, attached, max_bytes=max_bytes, limits=LIMITS)
    assert isinstance(request, Request)
    if isinstance(request, MemberRequest) and not {"member_id", "incarnation"} <= (
        request.model_fields_set
    ):
        raise ProtocolError(f"{type(request).__name__} does not say which member sends it")
    return request
