"""What is asked, what it was answered, and what a set of questions is.

EvaluationSet.load  >  Item  >  .prompt  >  (a model replies)  >  .score  >  Scored  >  .figures
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from common.errors import ConfigError, DataError
from rollout.evaluation.figures import Figure, Scored, accuracy_alone
from rollout.evaluation.hub import Repository, located
from rollout.evaluation.verdicts import Kind, ReplyVerdict, of_reply

Style = Literal["paper", "lmms"]
Labels = Literal["paper", "corrected"]


@dataclass(frozen=True)
class Item:
    """One question about one picture."""

    id: str  # no other item of its set has it
    picture: bytes  # the file as it was published
    question: str  # the published text; it may hold options
    answer: str  # a capital, "yes" or "no", or a text
    kind: Kind = "choice"
    options: tuple[tuple[str, str], ...] = ()  # capital and text; empty for an open question
    crop: bytes | None = None  # shows the evidence, where there is one
    fields: Mapping[str, str] = field(default_factory=dict)  # category and the like


class SetReading(NamedTuple):
    """A set's files, opened."""

    rows: int
    items: Iterator[Item]


class Loaded(NamedTuple):
    """What `EvaluationSet.open` gives."""

    rows: int  # in the files
    revision: str | None  # commit of the hub; None means files of a folder
    items: Iterator[Item]


@dataclass(frozen=True)
class EvaluationSet:
    """One benchmark: where its files are, how it asks, and how it counts."""

    name: str
    title: str
    read: Callable[[Sequence[Path]], SetReading]  # one folder a repository
    prompts: Mapping[str, Callable[[Item], str]]  # the prompt of each style
    repositories: tuple[Repository, ...] = ()
    counts: tuple[int, ...] = ()  # published numbers of rows; empty means any
    breakdown: Callable[[Sequence[Scored]], dict[str, Figure]] = accuracy_alone
    headline: str = "accuracy"  # the figure that the paper's tables give
    corrections: Mapping[str, str] = field(default_factory=dict)  # answers, by id

    @property
    def repo(self) -> str:
        return ", ".join(repository.name for repository in self.repositories)

    @property
    def styles(self) -> tuple[str, ...]:
        return tuple(self.prompts)

    def open(
        self, source: Path | None = None, limit: int = 0, is_any_count: bool = False
    ) -> Loaded:
        """The items in the order of the files, read as they are asked for.

        Args:
            source: a folder with the files of the repository, for several repositories with a
                folder for each; None means the hub, at the pinned commit.
            limit: how many items, the first ones; 0 means all.
            is_any_count: accepts another number of rows than the published one.

        Raises:
            ConfigError: the hub cannot be reached, or refuses.
            DataError: a file is missing or broken, or holds another number of rows. A row that
                cannot be used raises it while the items are read.
        """
        folders, revision = located(self.name, self.repositories, source)
        rows, items = self.read(folders)
        if self.counts and rows not in self.counts and not limit and not is_any_count:
            expected = " or ".join(map(str, self.counts))
            raise DataError(
                f"set {self.name}: {rows} rows, not {expected} as published. Fix: take whole files "
                "of the published revision, or allow another count: it is another benchmark then"
            )
        return Loaded(rows, revision, islice(_apart(items), limit or None))

    def prompt(self, item: Item, style: str) -> str:
        """The text beside the picture, which comes first. Raises ConfigError."""
        if style not in self.prompts:
            raise ConfigError(
                f"set {self.name} has no prompt style {style!r}. Fix: choose one of "
                f"{', '.join(self.styles)}"
            )
        return self.prompts[style](item)

    def answer(self, item: Item, labels: str) -> str:
        """The reference that counts. Raises ConfigError."""
        if labels not in ("paper", "corrected"):
            raise ConfigError(f"labels {labels!r}. Fix: choose paper or corrected")
        corrected = self.corrections.get(item.id) if labels == "corrected" else None
        return item.answer if corrected is None else corrected

    def score(self, item: Item, reply: str, labels: str = "paper") -> ReplyVerdict:
        """What a reply is worth; a cut one is judged as it is. Raises ConfigError."""
        return of_reply(item.kind, item.options, self.answer(item, labels), reply)

    def figures(self, scored: Sequence[Scored]) -> dict[str, Figure]:
        """Accuracy and what else the benchmark reports, of all items that got a reply."""
        return self.breakdown(scored)


def digest_of(item: Item) -> bytes:
    """SHA-256 of all that a model or the scoring sees; 32 bytes.

    Of a set that were read: hash the items' digests one after another.
    """
    pictures = [hashlib.sha256(content).hexdigest() for content in (item.picture, item.crop or b"")]
    told = [item.id, item.question, item.options, item.answer, item.kind, *pictures]
    return hashlib.sha256(json.dumps(told).encode()).digest()


def _apart(items: Iterator[Item]) -> Iterator[Item]:
    """Give each item an id that no other has: sets number their parts anew."""
    seen: dict[str, int] = {}
    for item in items:
        count = seen[item.id] = seen.get(item.id, 0) + 1
        yield item if count == 1 else replace(item, id=f"{item.id}#{count}")
