"""Ask every item of a set and judge the replies: many at once, each in its own time.

    items --one at a time--> workers: digest > stored reply? else ask > write down > score > judge?

No item ends a run: what cannot be asked or is refused is a failure of that item. An endpoint that
fails whatever it is asked does end it, and what has been answered is kept.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from common.errors import DataError, EngineError
from rollout.evaluation.endpoint import ChatClient, ItemRefused, chat_body
from rollout.evaluation.items import EvaluationSet, Item, digest_of
from rollout.evaluation.judge import Judge, judge_prompt
from rollout.evaluation.pictures import SmallPictures
from rollout.evaluation.progress import ItemProgress
from rollout.evaluation.questions import data_url, shown_sha256
from rollout.evaluation.replies import NOT_ASKED, Replies, Reply, ReplyKey
from rollout.evaluation.settings import EvaluationSettings
from rollout.evaluation.verdicts import ReplyVerdict

_LONG = 4000  # characters of a reply
_FAILURES_IN_A_ROW = 16  # failed requests, after all tries, before an endpoint is given up


@dataclass(frozen=True)
class MeasuredItem:
    """What became of one item."""

    item: Item  # without its pictures
    digest: bytes  # SHA-256 of all that was asked and scored by
    reply: Reply
    verdict: ReplyVerdict | None  # None means that the request failed
    is_judged: bool = False  # the verdict is the judge's
    picture: str | None = None  # a small one, relative to the result's folder


class Asker:
    """The steps from one item to its verdict.

    Args:
        client: None means that only stored replies count.
        judge: None means that what the rules leave undecided stays so.
    """

    def __init__(
        self,
        settings: EvaluationSettings,
        model: str,
        replies: Replies,
        pictures: SmallPictures,
        client: ChatClient | None,
        judge: Judge | None = None,
    ) -> None:
        self.settings = settings
        self._model = model
        self._replies = replies
        self._pictures = pictures
        self._client = client
        self._judge = judge
        self._failures = 0  # failed requests since the endpoint last answered

    async def measured(self, source: EvaluationSet, item: Item) -> tuple[MeasuredItem, bool]:
        """What becomes of an item, and whether it was asked now.

        Raises:
            EngineError: the endpoint fails whatever it is asked.
            DataError: the disk fails.
        """
        picture = item.crop if self.settings.view == "crop" else item.picture
        assert picture is not None, "items without a crop are not asked about it"
        text = source.prompt(item, self.settings.prompt)
        shown, digest = await asyncio.to_thread(_digests, text, picture, item)
        key = ReplyKey(source.name, item.id, self.settings.view, shown)
        reply, was_asked = await self._reply_to(key, text, picture)
        small = await self._pictures.name_of(picture)
        bare = replace(item, picture=b"", crop=None)
        if reply.error is not None:
            return MeasuredItem(bare, digest, reply, None, picture=small), was_asked
        verdict, is_judged = await self._verdict(source, bare, reply)
        return MeasuredItem(bare, digest, reply, verdict, is_judged, small), was_asked

    async def _reply_to(self, key: ReplyKey, text: str, picture: bytes) -> tuple[Reply, bool]:
        """The one that is stored, or else a new one; and whether it is new."""
        stored = self._replies.get(key)
        if self._client is None or (stored is not None and stored.error is None):
            return stored or NOT_ASKED, False
        reply = await self._asked(self._client, text, picture)
        self._replies.add(key, reply)
        return reply, True

    async def _asked(self, client: ChatClient, text: str, picture: bytes) -> Reply:
        started = time.monotonic()
        try:
            url = await asyncio.to_thread(data_url, picture, self.settings.limits)
            body = chat_body(
                self._model,
                text,
                url,
                max_tokens=self.settings.max_tokens,
                temperature=self.settings.temperature,
                thinking=self.settings.thinking,
                is_ours=self.settings.is_ours,
            )
            answer = await client.ask(body)
        except (EngineError, DataError) as error:
            self._note(error)
            return Reply("", None, None, str(error), _since(started))
        self._failures = 0
        return Reply(
            answer.text, answer.finish_reason, answer.completion_tokens, None, _since(started)
        )

    def _note(self, error: Exception) -> None:
        """Count an error; EngineError if it is time to give the endpoint up."""
        is_item = isinstance(error, DataError) or (
            isinstance(error, ItemRefused) and not error.is_of_the_endpoint
        )
        self._failures += not is_item
        if not is_item and self._failures >= max(_FAILURES_IN_A_ROW, self.settings.concurrency):
            raise EngineError(
                f"the endpoint failed {self._failures} times in a row; at last: {error}. Fix: see "
                "to it; the same command then goes on with what is not answered yet"
            ) from error

    async def _verdict(
        self, source: EvaluationSet, item: Item, reply: Reply
    ) -> tuple[ReplyVerdict, bool]:
        """The verdict by the rules, or by the judge where they leave it undecided."""
        verdict = await _scored(source, item, reply.reply, self.settings.labels)
        if verdict.outcome != "undecided" or self._judge is None:
            return verdict, False
        answer = source.answer(item, self.settings.labels)
        prompt = judge_prompt(item.question, item.options, answer, reply.reply)
        is_right = await self._judge.is_right(prompt)
        if is_right is None:
            return verdict, False
        return replace(verdict, outcome="right" if is_right else "wrong"), True


async def measure(
    asker: Asker, source: EvaluationSet, items: Iterable[Item], progress: ItemProgress
) -> list[MeasuredItem]:
    """Measure all items, as many at once as the settings say; results in their order.

    Raises:
        EngineError, DataError: as `Asker.measured`, and what reading the items raises.
    """
    found: dict[int, MeasuredItem] = {}
    feed = _Feed(items)

    async def work() -> None:
        while (entry := await feed.take()) is not None:
            number, item = entry
            found[number], was_asked = await asker.measured(source, item)
            progress.count(was_asked, found[number].verdict is None)

    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(asker.settings.concurrency):
                workers.create_task(work())
    except ExceptionGroup as group:  # the first one has ended the others
        raise group.exceptions[0] from None
    finally:
        progress.end()
    return [found[number] for number in sorted(found)]


class _Feed:
    """Numbered items, read one at a time in a thread: no more are in memory than are asked."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items: Iterator[tuple[int, Item]] = enumerate(items)
        self._lock = asyncio.Lock()

    async def take(self) -> tuple[int, Item] | None:
        async with self._lock:
            return await asyncio.to_thread(next, self._items, None)


async def _scored(source: EvaluationSet, item: Item, reply: str, labels: str) -> ReplyVerdict:
    """Score a reply; a long one, mostly one that repeats itself, must not hold up the others."""
    if len(reply) < _LONG:
        return source.score(item, reply, labels)
    return await asyncio.to_thread(source.score, item, reply, labels)


def _digests(text: str, picture: bytes, item: Item) -> tuple[str, bytes]:
    """Digests of what the model is shown, and of the whole item."""
    return shown_sha256(text, picture), digest_of(item)


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)
