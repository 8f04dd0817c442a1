"""A request that the broker understood and turns down."""

from common.errors import VisionOpdError


class Refusal(VisionOpdError):
    """Becomes a `Refused` reply. `code` is stable, the message is for people.

    Codes: "unknown_member" (say hello again), "superseded" (a newer incarnation took the name),
    "wrong_role", "version_mismatch", "bad_request", "bad_group", "bad_step", "fenced", "too_many",
    "unknown_image", "malformed", "too_large".
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
