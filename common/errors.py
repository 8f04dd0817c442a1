"""The exceptions that callers may want to tell apart."""


class VisionOpdError(Exception):
    """Base of every error that this project raises on purpose."""


FINAL_EXIT_CODE = 2  # exit code of a process that is not started again (FinalError)


class FinalError(VisionOpdError):
    """An error with which another start would end, too."""


class ConfigError(FinalError, ValueError):
    """A configuration that cannot run. The message names the key, the value and the fix."""


class DataError(VisionOpdError, ValueError):
    """One broken row, image or response. It costs that sample, never the run."""


class CheckpointError(VisionOpdError):
    """A checkpoint that training cannot go on from. The message names the file and the fix."""


class ProtocolError(VisionOpdError):
    """A peer of another version, or bytes that are not one of our messages."""


class VersionMismatch(ProtocolError, FinalError):
    """The broker does not let this process in: its code or packages are others."""


class BrokerUnavailable(VisionOpdError, ConnectionError):
    """The broker did not answer within its retries."""


class EngineError(VisionOpdError):
    """A generation engine refused, failed or did not answer in time."""


class WeightSyncError(VisionOpdError):
    """A weight push did not complete on every server that took part."""


def exit_code_of(error: VisionOpdError) -> int:
    """The exit code of a process that ends with this error."""
    return FINAL_EXIT_CODE if isinstance(error, FinalError) else 1
