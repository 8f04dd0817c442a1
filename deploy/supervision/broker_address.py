"""Where the broker listens: it writes that into RUN/broker.json when it can be asked."""

import asyncio
import json
import time
from pathlib import Path

from common.errors import VisionOpdError
from common.log_files import identity
from deploy.cluster.pools import PoolName
from deploy.supervision.process_table import ProcessTable

_TIMEOUT_S = 600.0  # it reads the data, and replays the journal of a run that goes on
_LOOK_S = 0.05


class BrokerAddress:
    """The address of a run's broker, for all who wait for it.

    Args:
        table: says whether the broker runs.
    """

    def __init__(self, run_folder: Path, table: ProcessTable) -> None:
        self._folder = run_folder
        self._table = table
        self._written: tuple[int, int] | None = None  # the file of the broker before
        self.known: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def _file(self) -> Path:
        return self._folder / "broker.json"

    def forget(self) -> None:
        """Begin a new round, in which the broker may listen elsewhere."""
        if self.known.done():
            self.known = asyncio.get_running_loop().create_future()

    def told_to(self, pool: PoolName) -> str:
        """What processes that start are told: a broker nothing, and what it writes then counts."""
        if pool != "broker":
            return self.known.result()
        self._written = identity(self._file)
        return ""

    async def wait(self) -> str:
        """The address, once it is known."""
        return await asyncio.shield(self.known)  # one that waits may be cancelled

    async def read(self) -> str | None:
        """What the started broker writes. None means that it has ended before.

        Raises:
            VisionOpdError: it writes nothing in time.
        """
        latest = time.monotonic() + _TIMEOUT_S
        while identity(self._file) == self._written:
            if not self._table.is_up("broker"):
                return None
            if time.monotonic() > latest:
                message = f"the broker gave no address within {_TIMEOUT_S:.0f} s"
                log = self._folder / "logs" / "broker.log"
                raise VisionOpdError(f"{message}. Fix: see {log}")
            await asyncio.sleep(_LOOK_S)  # a file has no event
        address: str = json.loads(self._file.read_text(encoding="utf-8"))["address"]
        return address
