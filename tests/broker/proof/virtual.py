"""A world without real time: an event loop, a network and a disk in which a seed decides all."""

import asyncio
import random
import selectors
from collections.abc import Callable
from typing import Any

from broker.net.transport import Received
from broker.storage.disk import Disk

PASSED_ON = 0.001  # seconds that the fastest message takes


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time stands still while there is something to do, and jumps to the next timer otherwise."""

    def __init__(self) -> None:
        self._virtual_s = 0.0
        super().__init__(_NoSelector(self))

    def time(self) -> float:
        return self._virtual_s

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """At once, in this thread: what waits for a disk does not wait here."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


class _NoSelector(selectors.BaseSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, 0, None)

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("nothing will ever happen again: a deadlock")
        self._loop._virtual_s += max(0.0, timeout)
        return []

    def get_map(self) -> Any:
        return {}

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        raise KeyError(fileobj)


class Network:
    """Delays, drops, repeats, reorders and partitions, as long as `is_faulty`."""

    def __init__(self, rng: random.Random, faultiness: float) -> None:
        self._rng = rng
        self._faultiness = faultiness
        self.is_faulty = True
        self.listener: SimListener | None = None
        self.links: dict[bytes, SimLink] = {}
        self.cut_off: set[str] = set()  # members that a partition keeps from the broker
        self.num_sent = self.num_lost = self.num_repeated = 0

    def carry(self, name: str, deliver: Callable[[], None]) -> None:
        """Take one message of or to `name`."""
        self.num_sent += 1
        copies = 1
        if self.is_faulty:
            if name in self.cut_off or self._rng.random() < 0.1 * self._faultiness:
                self.num_lost += 1
                return
            if self._rng.random() < 0.05 * self._faultiness:
                self.num_repeated += 1
                copies = 2
        for _ in range(copies):
            asyncio.get_running_loop().call_later(self._delay(), deliver)

    def _delay(self) -> float:
        if self.is_faulty and self._rng.random() < 0.1 * self._faultiness:
            return self._rng.uniform(0.5, 15.0)  # later than a time-out, a lease, a life
        return PASSED_ON * (1 + self._rng.random())


class SimListener:
    """The broker's end."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._inbox: asyncio.Queue[list[bytes]] = asyncio.Queue()

    def open(self) -> str:
        self._network.listener = self
        return "sim://broker"

    async def receive(self) -> Received:
        return Received(await self._inbox.get(), None)

    def receive_now(self) -> Received | None:
        return None if self._inbox.empty() else Received(self._inbox.get_nowait(), None)

    async def send(self, envelope: list[bytes]) -> None:
        if self._network.listener is not self:
            return  # this process has been killed
        link = self._network.links.get(envelope[0])
        if link is not None:
            self._network.carry(link.name, lambda: link.deliver(envelope[1:]))

    def deliver(self, envelope: list[bytes]) -> None:
        if self._network.listener is self:
            self._inbox.put_nowait(envelope)

    def close(self) -> None:
        if self._network.listener is self:
            self._network.listener = None


class SimLink:
    """A client's end."""

    def __init__(self, network: Network, name: str, identity: bytes) -> None:
        self.name = name
        self._network = network
        self._identity = identity
        self._inbox: asyncio.Queue[list[bytes]] = asyncio.Queue()
        self.is_cut = False

    def open(self, address: str, max_frame_bytes: int) -> None:
        self._network.links[self._identity] = self

    async def receive(self) -> list[bytes]:
        return await self._inbox.get()

    async def send(self, envelope: list[bytes]) -> None:
        self.post(envelope)

    def post(self, envelope: list[bytes]) -> None:
        if self.is_cut:
            return

        def deliver() -> None:
            listener = self._network.listener
            if listener is not None:
                listener.deliver([self._identity, *envelope])

        self._network.carry(self.name, deliver)

    def deliver(self, envelope: list[bytes]) -> None:
        self._inbox.put_nowait(envelope)

    def close(self) -> None:
        self._network.links.pop(self._identity, None)


class SimDisk(Disk):
    """Files in memory, and how much of each would outlive a power cut."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._files: dict[str, bytearray] = {}
        self._synced: dict[str, int] = {}
        self.is_full = False
        self._boots = 0

    @property
    def boot(self) -> str:
        return str(self._boots)

    def names(self) -> list[str]:
        return sorted(self._files)

    def size(self, name: str) -> int:
        return len(self._files.get(name, b""))

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        if name not in self._files:
            raise FileNotFoundError(2, "No such file")
        end = None if length is None else offset + length
        return bytes(self._files[name][offset:end])

    def append(self, name: str, content: bytes) -> None:
        file = self._files.setdefault(name, bytearray())
        if self.is_full:
            file += content[: self._rng.randrange(len(content) + 1)]
            raise OSError(28, "No space left on device")
        file += content

    def sync(self, name: str) -> None:
        self._synced[name] = self.size(name)

    def truncate(self, name: str, size: int) -> None:
        del self._files.setdefault(name, bytearray())[size:]
        self._synced[name] = min(size, self._synced.get(name, 0))

    def delete(self, name: str) -> None:
        del self._files[name]
        self._synced.pop(name, None)

    def close(self) -> None:
        pass

    def lose_power(self) -> None:
        """What was not synced is there up to some byte, file by file."""
        self._boots += 1
        for name, file in list(self._files.items()):
            synced = self._synced.get(name, 0)
            del file[self._rng.randint(synced, len(file)) :]
            if not file and synced == 0 and self._rng.random() < 0.5:
                del self._files[name]
