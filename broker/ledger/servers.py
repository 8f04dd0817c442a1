"""Weight versions that the live rollout servers serve. Pure."""

from collections import Counter

from broker.ledger.entry import Owner


class Servers:
    """Live rollout servers and the newest version that each has acknowledged; -1 means none yet."""

    def __init__(self) -> None:
        self._versions: dict[Owner, int] = {}
        self._counts: Counter[int] = Counter()  # servers by version

    def __len__(self) -> int:
        return len(self._versions)

    def add(self, owner: Owner) -> None:
        self._versions[owner] = -1

    def remove(self, owner: Owner) -> None:
        self._forget(owner)
        self._versions.pop(owner, None)

    def acknowledge(self, owner: Owner, version: int) -> bool:
        """Note a version. False when it is no news, or `owner` is not a live server."""
        if version <= self._versions.get(owner, version):
            return False
        self._forget(owner)
        self._versions[owner] = version
        self._counts[version] += 1
        return True

    def forget_versions(self) -> None:
        """Forget all versions after a rewind: no server serves weights of the new history yet."""
        self._versions = dict.fromkeys(self._versions, -1)
        self._counts.clear()

    def version_of(self, owner: Owner) -> int:
        return self._versions.get(owner, -1)

    def all(self) -> dict[Owner, int]:
        return dict(self._versions)

    def floor(self) -> int | None:
        """The oldest version that any live server serves; None means that none serves any.

        A server that has not acknowledged any weights generates nothing, so it delays no step.
        """
        return min(self._counts, default=None)

    def _forget(self, owner: Owner) -> None:
        version = self._versions.get(owner, -1)
        if version >= 0:
            self._counts[version] -= 1
            if not self._counts[version]:
                del self._counts[version]
