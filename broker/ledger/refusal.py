"""A request that the broker understood and turns down."""

from broker.protocol import Refused
from common.errors import VisionOpdError


class Refusal(VisionOpdError):
    """Becomes a `Refused` reply. `code` is stable, the message is for people.

    Codes: "unknown_member" (say hello again), "superseded" (a newer incarnation took the name),
    "wrong_role", "version_mismatch", "bad_request", "bad_group", "bad_step", "fenced", "too_many",
    "unknown_image", "unknown_sample", "unknown_measurement", "malformed", "too_large", "internal"
    (see `refused_for`).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def reply(self) -> Refused:
        return Refused(code=self.code, message=str(self))


def refused_for(error: Exception) -> Refused:
    """The reply to a request that met a fault of ours: the log has it, the run goes on."""
    kind = type(error).__name__
    return Refused(code="internal", message=f"the broker failed at this request ({kind}): its log")
