"""Copies of weights that one engine keeps for measurements: a few, the oldest go first."""

from rollout.engine import Engine
from rollout.pool import Server
from rollout.serving import Served

MAX_PINNED = 2  # a measurement may still be under way when the next begins


class Pins:
    """Copies of weights that one engine keeps for measurements.

    Args:
        server: its list of copies is kept up to date.
    """

    def __init__(self, engine: Engine, server: Server) -> None:
        self._engine = engine
        self._server = server

    async def pin(self, served: Served) -> bool:
        """Keep a copy of what is served now; false where the engine cannot.

        Copies of steps that a resumed learner has undone go at once: their versions come again.

        Raises:
            EngineGone: it does not answer any more.
        """
        kept = [one for one in self._server.pinned if one.history == served.history]
        kept = [one for one in kept if one != served][-(MAX_PINNED - 1) :]
        for one in self._server.pinned:
            if one not in kept:
                await self._engine.unpin(one.version)
        self._server.pinned = tuple(kept)
        if not await self._engine.pin(served.version):
            return False
        self._server.pinned = (*kept, served)
        return True
