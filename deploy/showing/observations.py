"""RUN/observations.jsonl: what the launcher saw of rollout servers and queue, one line a step."""

import io
import json
import logging
from pathlib import Path
from statistics import fmean

from broker.protocol import Role, Status
from common.full_disk import append_whole
from common.metrics import Over, names_over

logger = logging.getLogger(__name__)
_SHARES, _TOTALS = names_over(Over.SERVERS), names_over(Over.SERVERS_TOTAL)


class Observations:
    """Takes every look at the status; writes a line whenever the learner's version moves on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version = 0
        self._unwritten = b""
        self._seen: dict[str, list[float]] = {}

    def update(self, status: Status, elapsed_s: float) -> None:
        if status.version != self._version:
            self._write(elapsed_s)
            self._version = status.version
        self._note("broker/slots_used", float(status.slots_used))
        self._note("broker/groups_ready", float(status.counts.get("samples_waiting", 0)))
        rollouts = [m.gauges for m in status.members if m.role is Role.ROLLOUT]
        for name in (*_SHARES, *_TOTALS):
            key = name.removeprefix("rollout/")
            if values := [gauges[key] for gauges in rollouts if key in gauges]:
                self._note(name, fmean(values) if name in _SHARES else sum(values))

    def _note(self, key: str, value: float) -> None:
        self._seen.setdefault(key, []).append(value)

    def _write(self, elapsed_s: float) -> None:
        if self._version > 0:  # before step 1 there is only the start
            row = {"step": self._version, "time_s": round(elapsed_s, 3)}
            row |= {key: round(fmean(values), 6) for key, values in self._seen.items()}
            self._unwritten += (json.dumps(row) + "\n").encode()
            self._append()
        self._seen.clear()

    def _append(self) -> None:
        """Append the unwritten lines; on a full disk they are kept for the next time."""
        try:
            with io.FileIO(self._path, "a") as file:
                append_whole(file, self._unwritten)
        except OSError as error:
            logger.warning("%s cannot be written: %s", self._path, error.strerror)
        else:
            self._unwritten = b""
