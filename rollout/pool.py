"""Which server generates which group, when one process drives several.

A lease belongs to the member that asked for it, but any server of the pool may generate it: the one
that has computed the image before, as long as it has a free slot; else the one with most free
slots. No server gets more groups than its capacity. A group that may be what kills engines claims
its member's own server for itself.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable

from common.errors import EngineError
from rollout.engine import Engine
from rollout.serving import Served, ServingState

MAX_IMAGES = 4096  # digests remembered for each server


class Server:
    """One engine as the pool sees it.

    Args:
        capacity: how many groups it generates at once.
    """

    def __init__(self, name: str, engine: Engine, serving: ServingState, capacity: int) -> None:
        self.name = name
        self.engine = engine
        self.serving = serving
        self.capacity = capacity
        self.reserved = 0  # leases of its member that no server generates yet
        self.running = 0
        self.pinned: tuple[Served, ...] = ()  # weights that its engine has copies of
        self.is_claimed = False  # a group must be alone on it: no other may start
        self.lost: asyncio.Future[EngineError] = asyncio.get_running_loop().create_future()
        self._images: OrderedDict[str, None] = OrderedDict()  # sha256, the latest used last
        self._images_of: object = None  # what it served when it computed them

    @property
    def free(self) -> int:
        """How many groups it could start now."""
        return 0 if self.is_claimed else self.capacity - self.running

    def pinned_of(self, served: Served) -> tuple[int, ...]:
        """Versions of its copies that are of the same history."""
        return tuple(kept.version for kept in self.pinned if kept.history == served.history)

    def has_seen(self, image: str) -> bool:
        """Whether the image's prefix may still be in its cache: a push empties that."""
        return self._images_of == self.serving.weights and image in self._images

    def note_image(self, image: str) -> None:
        if self._images_of != self.serving.weights:
            self._images.clear()
            self._images_of = self.serving.weights
        self._images[image] = None
        self._images.move_to_end(image)
        if len(self._images) > MAX_IMAGES:
            self._images.popitem(last=False)

    def report_lost(self, error: EngineError) -> None:
        """Note that the engine does not answer any more; `RolloutServer` starts it again."""
        if not self.lost.done():
            self.lost.set_result(error)


def best(servers: Iterable[Server], image: str, at_least: Served) -> Server | None:
    """The server for a group on `image`; None when none with such weights has a free slot.

    Args:
        at_least: what the lease was granted for. A server that is behind, or that still serves
            weights of steps which were undone, would only generate what is not trained.
    """
    candidates = [
        s
        for s in servers
        if s.serving.weights is not None and s.serving.weights >= at_least and s.free > 0
    ]
    return max(candidates, key=lambda s: (s.has_seen(image), s.free), default=None)


class ServerPool:
    """The servers of this process that are up."""

    def __init__(self) -> None:
        self._servers: dict[str, Server] = {}
        self.changed = asyncio.Condition()  # the servers notify it as well

    async def add(self, server: Server) -> None:
        async with self.changed:
            self._servers[server.name] = server
            self.changed.notify_all()

    async def remove(self, server: Server) -> None:
        async with self.changed:
            if self._servers.get(server.name) is server:
                del self._servers[server.name]

    async def choose(self, image: str, at_least: Served, avoid: Server | None = None) -> Server:
        """Take a slot of the best server, as soon as there is one; `release` gives it back.

        Args:
            avoid: a server that has just failed; chosen only when no other can take it.
        """
        async with self.changed:
            while True:
                others = [s for s in self._servers.values() if s is not avoid]
                server = best(others, image, at_least)
                server = server or best(self._servers.values(), image, at_least)
                if server is not None:
                    server.running += 1
                    server.note_image(image)
                    return server
                await self.changed.wait()

    async def claim(self, server: Server, at_least: Served) -> None:
        """Take all of a server, as soon as it is idle; `release` gives it back.

        Args:
            at_least: see `best`.
        """

        def is_idle() -> bool:
            now = server.serving.weights
            return server.running == 0 and now is not None and now >= at_least

        server.is_claimed = True
        try:
            async with self.changed:
                await self.changed.wait_for(is_idle)
        except BaseException:
            server.is_claimed = False
            await self.notify()
            raise
        server.running += 1

    async def release(self, server: Server, is_claimed: bool = False) -> None:
        """Give back what `choose` took, or what `claim` did."""
        server.running -= 1
        if is_claimed:
            server.is_claimed = False
        await self.notify()

    async def notify(self) -> None:
        """Wake those who wait for a slot: something changed that may free one."""
        async with self.changed:
            self.changed.notify_all()

    async def wait_for_room(self, server: Server) -> int:
        """How many leases its member may ask for; waits until it is one at least."""
        async with self.changed:
            await self.changed.wait_for(lambda: server.free > server.reserved)
            return server.free - server.reserved
