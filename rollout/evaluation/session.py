"""One result: a model's answers to some sets, judged, and written into a folder.

identity.json > replies.jsonl, judge.jsonl, pictures/ > result.json > result.md, result.html
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import ConfigError, DataError
from common.files import replace_json
from common.lifecycle import until_stopped
from rollout.evaluation import results
from rollout.evaluation.endpoint import ChatClient
from rollout.evaluation.identity import SetIdentity, identity_of, take_folder
from rollout.evaluation.items import EvaluationSet, Loaded
from rollout.evaluation.judge import Judge, judge_identity
from rollout.evaluation.pages import write_pages
from rollout.evaluation.pictures import SmallPictures
from rollout.evaluation.progress import ItemProgress
from rollout.evaluation.replies import Replies
from rollout.evaluation.results import SetResult, result_document
from rollout.evaluation.run import Asker, measure
from rollout.evaluation.settings import EvaluationPlan, Target


class OpenedSet(NamedTuple):
    """A set whose files are here."""

    source: EvaluationSet
    loaded: Loaded
    identity: SetIdentity


async def evaluate_into(
    folder: Path,
    plan: EvaluationPlan,
    target: Target,
    stop: asyncio.Event,
    is_asking: bool = True,
) -> dict[str, Any] | None:
    """Measure what is planned; what was answered earlier is not asked again.

    Args:
        is_asking: if false, only stored replies and verdicts are used.

    Returns:
        The content of result.json; None means stopped before the end: a later call goes on.

    Raises:
        ConfigError: the folder holds another evaluation, or a set cannot be had.
        DataError: a set's files are broken, or the disk fails.
        EngineError: the endpoint fails whatever it is asked.
    """
    started, since = datetime.now().astimezone().isoformat(timespec="seconds"), time.monotonic()
    opened = [await asyncio.to_thread(_opened, one, plan) for one in plan.sets]
    with contextlib.ExitStack() as files:
        _make(folder)
        replies = files.enter_context(Replies(folder))
        take_folder(folder, _remembered(plan, target, opened))
        async with _asker(folder, plan, target, replies, is_asking) as asker:
            needs_crops = plan.needs_crops or plan.settings.view == "crop"
            measured = await until_stopped(lambda: _measured(asker, opened, needs_crops), stop)
    if measured is None:
        return None
    document = result_document(
        target.model, _identity(plan, [one.named() for one in measured]), measured, started,
        time.monotonic() - since,
    )  # fmt: skip
    await asyncio.to_thread(_write, folder, document)
    return document


async def _measured(asker: Asker, opened: list[OpenedSet], needs_crops: bool) -> list[SetResult]:
    found = []
    for source, loaded, identity in opened:
        items = (item for item in loaded.items if item.crop is not None or not needs_crops)
        progress = ItemProgress(source.name, min(loaded.rows, identity.limit or loaded.rows))
        measured = await measure(asker, source, items, progress)
        if not measured:
            what = "item has a crop" if needs_crops else "item is there"
            raise ConfigError(f"set {source.name}: no {what}. Fix: name another set")
        found.append(SetResult(source, identity, measured))
    return found


@contextlib.asynccontextmanager
async def _asker(
    folder: Path, plan: EvaluationPlan, target: Target, replies: Replies, is_asking: bool
) -> AsyncIterator[Asker]:
    async with contextlib.AsyncExitStack() as open_things:
        client = judge = None
        if is_asking:
            client = _client(plan, target.url, target.key)
            await open_things.enter_async_context(client)
        if plan.judge is not None:
            judge_client = None
            if is_asking and plan.judge.url is not None:
                judge_client = _client(plan, plan.judge.url, plan.judge.key)
                await open_things.enter_async_context(judge_client)
            judge = open_things.enter_context(Judge(folder, plan.judge.model, judge_client))
        pictures = SmallPictures(folder)
        yield Asker(plan.settings, target.model, replies, pictures, client, judge)


def _client(plan: EvaluationPlan, url: str, key: str | None) -> ChatClient:
    return ChatClient(
        url, key, timeout_s=plan.timeout_s, tries=plan.tries, first_pause_s=plan.first_pause_s
    )


def _opened(source: EvaluationSet, plan: EvaluationPlan) -> OpenedSet:
    if plan.settings.prompt not in source.styles:
        raise ConfigError(
            f"--prompt {plan.settings.prompt}: set {source.name} has no such style. Fix: one of "
            f"{', '.join(source.styles)}"
        )
    loaded = source.open(plan.source, plan.limit, plan.is_any_count)
    dataset = source.repo or source.name
    identity = SetIdentity(source.name, dataset, loaded.revision, loaded.rows, plan.limit)
    return OpenedSet(source, loaded, identity)


def _remembered(plan: EvaluationPlan, target: Target, opened: list[OpenedSet]) -> dict[str, Any]:
    """What a later call, and a re-scoring, have to know."""
    return {
        "model": target.model,
        "weights": target.weights,
        "identity": _identity(plan, [one.identity for one in opened]),
        "source": None if plan.source is None else str(plan.source.absolute()),
        "is_any_count": plan.is_any_count,
        "crop_margin": plan.teacher.crop_margin,
        "crop_scale": plan.teacher.crop_scale,
    }


def _identity(plan: EvaluationPlan, sets: list[SetIdentity]) -> dict[str, Any]:
    judge = None if plan.judge is None else judge_identity(plan.judge.model)
    return identity_of(plan.settings, judge, sets)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder}: {error.strerror}. Fix: name another folder") from error


def _write(folder: Path, document: dict[str, Any]) -> None:
    try:
        replace_json(folder / results.FILE, document, is_synced=True)
        write_pages(folder)
    except OSError as error:
        raise DataError(f"--out {folder}: {error}. Fix: see to the disk") from error
