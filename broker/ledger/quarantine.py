"""The samples that no step will train, and why. Pure; `service.quarantine_file` keeps them."""

from collections import Counter
from typing import NamedTuple

from broker.ledger.entry import Entry


class Quarantined(NamedTuple):
    """One group that was given up, and why."""

    sample_id: str
    where: str  # "rollout": its attempts failed; "learner": it refused to train on it
    group_id: str
    attempts: int
    reason: str
    step: int = 0  # step in which the learner refused it; a rewind behind it undoes that

    def line(self) -> str:
        """Tell it in one line."""
        times = f"{self.attempts} attempt{'' if self.attempts == 1 else 's'}"
        attempts = f" after {times}" if self.where == "rollout" else ""
        by = " by the learner" if self.where == "learner" else ""
        return f"sample {self.sample_id} quarantined{by}{attempts}: {self.reason}"


class Quarantine:
    """Groups that were given up, in the order in which that happened."""

    def __init__(self) -> None:
        self.records: list[Quarantined] = []
        self._times: Counter[str] = Counter()  # groups given up of each sample

    @property
    def num_samples(self) -> int:
        """Number of different samples."""
        return len(self._times)

    def __contains__(self, sample_id: str) -> bool:
        return sample_id in self._times

    def give_up(self, entry: Entry, where: str, attempts: int, reason: str, step: int = 0) -> None:
        """Add a group. Arguments as the fields of `Quarantined`."""
        sample_id = entry.assignment.sample.sample_id
        record = Quarantined(sample_id, where, entry.group_id, attempts, reason, step)
        self.records.append(record)
        self._times[sample_id] += 1

    def undo_since(self, step: int) -> None:
        """Undo the learner's refusals after `step`, which is undone itself."""
        kept = [record for record in self.records if record.step <= step]
        if len(kept) < len(self.records):
            self.records = kept
            self._times = Counter(record.sample_id for record in kept)
