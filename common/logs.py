"""One log line format for every process, on stderr; the launcher keeps it in RUN/logs."""

import logging
import sys

_FORMAT = "%(asctime)s %(levelname)-7s {who} %(name)s: %(message)s"


def configure_logging(role: str) -> None:
    """Log INFO and above to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_FORMAT.format(who=role)))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for noisy in ("aiohttp.access", "asyncio", "httpx", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
