"""One log line format for every process, on stderr; the launcher keeps it in RUN/logs."""

import logging
import sys
from datetime import UTC, datetime
from typing import Protocol

_CONTROLS = [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029]
_ESCAPED = {code: repr(chr(code))[1:-1] for code in _CONTROLS if chr(code) != "\t"}
_FORMAT = "%(asctime)s %(levelname)-7s {who} %(name)s: %(message)s"


class SupportsWrite(Protocol):
    def write(self, text: str, /) -> object: ...


def configure_logging(role: str) -> None:
    """Log INFO and above to stderr."""
    handler = LineHandler(sys.stderr)
    handler.setFormatter(log_formatter(role))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for noisy in ("aiohttp.access", "asyncio", "httpx", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class LineHandler(logging.StreamHandler[SupportsWrite]):
    """A handler that writes lines to a stream; one that the stream does not take is dropped.

    Python's own would print a traceback for each: on a full disk, or to a reader that has gone.
    """

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)  # a mistake in our own call


def log_formatter(role: str) -> logging.Formatter:
    """The format of our lines, of a process that calls itself `role`."""
    return _Formatter(_FORMAT.format(who=role.replace("%", "%%")))


def time_stamp(seconds: float) -> str:
    """A time of the clock (seconds since 1970) as it begins a line: ISO 8601 to the millisecond.

    It is local time and says how far that is from UTC: the machines of a run need not agree.
    """
    local = datetime.fromtimestamp(seconds, UTC).astimezone()
    return local.isoformat(sep=" ", timespec="milliseconds")


def printable(text: str) -> str:
    """Foreign text as one line that no terminal obeys: control characters become escapes."""
    return text.translate(_ESCAPED)


class _Formatter(logging.Formatter):
    """A formatter that makes one line of each message; tracebacks keep their lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return time_stamp(record.created)
