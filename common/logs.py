"""One log line format for every process; each writes a file of its own in the run folder."""

import logging
import sys
from pathlib import Path

_FORMAT = "%(asctime)s %(levelname)-7s {who} %(name)s: %(message)s"


def configure_logging(role: str, run_folder: Path | None = None) -> None:
    """Log INFO and above to stderr and, when a run folder is given, to its logs/<role>.log."""
    formatter = logging.Formatter(_FORMAT.format(who=role))
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if run_folder is not None:
        folder = run_folder / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(folder / f"{role}.log", encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    logging.captureWarnings(True)
    for noisy in ("aiohttp.access", "asyncio", "httpx", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
