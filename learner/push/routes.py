"""How the weights of a push reach the servers: through a group, or as files."""

import secrets
from collections.abc import Callable
from typing import Literal

from common import spans
from common.config import WeightsSection
from common.push_groups import PREFIX
from common.types import GroupAddress, WeightFiles
from learner.push.buckets import Snapshot
from learner.push.group import PushGroup
from learner.push.roster import Peers
from learner.push.weight_files import WeightFolder

Announce = Callable[[GroupAddress | WeightFiles], None]


class GroupRoute:
    """Broadcasts in a group with the servers, which is kept while the servers stay the same.

    Args:
        is_greeting: servers join as `common.push_groups` has it. Those that others have started
            (rollout.engine_urls) may be plain SGLang, which takes nothing before the first bucket.
    """

    def __init__(self, config: WeightsSection, snapshot: Snapshot, is_greeting: bool) -> None:
        self._config = config
        self._snapshot = snapshot
        self._group: PushGroup | None = None
        self._groups_made = 0
        self.recipients: dict[str, int] = {}  # servers of the last push, with their first rank
        # A server may still be in a group of the learner before: the same name would mislead it.
        # Nor must a stranger guess it who does not hear the announcement: it is the key of all that
        # members of the group tell each other in a store that authenticates no peer.
        self.name_prefix = f"{PREFIX if is_greeting else 'push-'}{secrets.token_hex(16)}"

    def send(self, version: int, peers: Peers, is_current: bool, announce: Announce) -> None:
        """Announce a push and send what the snapshot holds.

        Args:
            is_current: every peer is known to have come through the push before.
            announce: tells the servers where the weights come from.

        Raises:
            RuntimeError: from torch (DistError and its kin), when a server fails or is too slow.
        """
        is_known = is_current and peers.keys() == self.recipients.keys()
        group = self._group if is_known else None
        if group is not None:
            announce(self._address(group))
        else:
            group = self._make_group(peers)
            announce(self._address(group))
            with spans.span("join", version=version):
                group.join()
        with spans.span("broadcast", version=version):
            for content in self._snapshot.ready():
                group.broadcast(content)

    def close(self, is_broken: bool = False) -> None:
        """Forget the recipients, and leave their group.

        Args:
            is_broken: a server failed.
        """
        group, self._group, self.recipients = self._group, None, {}
        if group is not None:
            group.close(is_broken)

    def _make_group(self, peers: Peers) -> PushGroup:
        self.close()
        self._groups_made += 1
        next_rank = 1
        for name, peer in sorted(peers.items()):
            self.recipients[name] = next_rank
            next_rank += peer.ranks
        self._group = PushGroup(
            f"{self.name_prefix}-{self._groups_made}",
            self._config.host,
            world_size=next_rank,
            backend=self._backend,
            timeout_s=self._config.timeout_s,
            within=self._snapshot.sending.entered,
        )
        return self._group

    def _address(self, group: PushGroup) -> GroupAddress:
        return GroupAddress(
            name=group.name,
            host=self._config.host,
            port=group.port,
            backend=self._backend,
            world_size=group.world_size,
        )

    @property
    def _backend(self) -> Literal["gloo", "nccl"]:
        if self._config.backend != "auto":
            return self._config.backend
        return "nccl" if self._snapshot.device.type == "cuda" else "gloo"


class FileRoute:
    """Writes a Hugging Face folder for each push, on a disk that the servers read."""

    def __init__(self, folder: WeightFolder, snapshot: Snapshot) -> None:
        self._folder = folder
        self._snapshot = snapshot
        self._num_written = 0
        self.recipients: dict[str, int] = {}  # servers of the last push; 0 stands for no rank

    def send(self, version: int, peers: Peers, is_current: bool, announce: Announce) -> None:
        """Write the files and announce them; OSError when they cannot be written."""
        self.recipients = dict.fromkeys(peers, 0)
        name = f"version-{version:06d}-{self._num_written}"
        self._num_written += 1
        with spans.span("write_files", version=version):
            files = self._folder.write(name, self._snapshot)
        announce(files)

    def close(self, is_broken: bool = False) -> None:
        self.recipients = {}
