"""What only the real SGLang finds fault with: an error that says why, and a server that lives on.

Our own reading and rendering let none of these through, so the tests go around them. All are errors
that SGLang raises and answers with.
"""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from broker.ledger.quarantine import Quarantined
from common.config import RunConfig
from common.config_cli import build
from common.errors import EngineError
from common.rendering import Renderer
from common.source import SampleSource
from common.types import Sample
from rollout.engine import GroupRequest, RequestFailed, RequestRejected
from rollout.http_engine import HttpEngine
from rollout.pool import ServerPool
from rollout.rollout_server import RolloutServer, RunningEngine
from tests.broker.support import make_rules, running_broker
from tests.poison.rows import Folder
from tests.rollout.learner_player import learner_at
from tests.rollout.support import load_model, run_config, running_server
from tests.tiny_model import PROBLEM, make_tiny_checkpoint

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(300)]
CONTEXT_TOKENS = 256
NUM_TRAJECTORIES = 2
MAX_ATTEMPTS = 2
RESPONSE_TOKENS = 8


@dataclass(frozen=True)
class Kind:
    """One fault.

    Args:
        size: of the picture, width and height in pixels; 16 x 16 are one token.
        num_placeholders: in the prompt, for one picture.
        reason: all that is said, or its beginning.
        before: the same in a run, whose worker sees it before the engine does.
    """

    name: str
    reason: str
    error: type[EngineError] = RequestRejected
    problem: str = PROBLEM
    size: tuple[int, int] = (64, 64)
    num_placeholders: int = 1
    content: bytes | None = None  # of the picture's file, in place of one of that size
    before: str = ""

    def picture(self) -> bytes:
        if self.content is not None:
            return self.content
        content = io.BytesIO()
        Image.new("RGB", self.size, (90, 9, 9)).save(content, "PNG")
        return content.getvalue()


KINDS = (
    Kind("thin picture", "/generate: HTTP 400: absolute aspect ratio must be smaller than 200",
         size=(900, 2)),
    Kind("picture over the context", "/generate: HTTP 400: The input (335 tokens) is longer than "
         f"the model's context length ({CONTEXT_TOKENS} tokens).", size=(320, 256)),
    Kind("response over the context", "/generate: HTTP 400: Requested token count exceeds the "
         f"model's maximum context length of {CONTEXT_TOKENS} tokens. You requested a total of ",
         problem=PROBLEM + " which" * 220),
    Kind("no picture", "/generate: HTTP 400: it is none of PNG, JPEG, WEBP, GIF, BMP",
         content=b"hello", before="image "),
    Kind("a picture too few", "/generate: HTTP 500: Internal Server Error", RequestFailed,
         num_placeholders=2),
)  # fmt: skip
HEALTHY = tuple(Kind(f"healthy {number}", "") for number in range(len(KINDS)))


class CarelessRenderer:
    """Gives the engine what the real one refuses."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self.vision_token_ids = renderer.vision_token_ids
        self.end_token_ids = renderer.end_token_ids

    def prompt_token_ids(self, problem: str) -> np.ndarray:
        count = problem.count("<image>")
        once = problem.replace("<image>" * count, "<image>")
        ids = self._renderer.prompt_token_ids(once)
        is_picture = ids == self._renderer.image_token_id
        return np.repeat(ids, np.where(is_picture, count, 1))

    def engine_image(self, shown: Any, content: bytes | None = None) -> tuple[bytes, str]:
        assert content is not None
        return content, "0" * 64

    def request(self, kind: Kind) -> GroupRequest:
        return GroupRequest(
            prompt_token_ids=self.prompt_token_ids(problem_of(kind)),
            images=(kind.picture(),),
            num_trajectories=NUM_TRAJECTORIES, temperature=1.0, top_p=1.0, top_k=-1,
            max_response_tokens=RESPONSE_TOKENS,
            banned_token_ids=tuple(self.vision_token_ids),
            end_token_ids=tuple(self.end_token_ids), seed=None,
        )  # fmt: skip


def problem_of(kind: Kind) -> str:
    return kind.problem.replace("<image>", "<image>" * kind.num_placeholders)


def sample_of(kind: Kind, folder: Path) -> Sample:
    """With its picture in the folder."""
    width, height = kind.size
    row = Folder(folder, kind.name).row(
        kind.picture(), problem=problem_of(kind), width=width, height=height
    )
    ref = {"sha256": row["image_sha256"], "path": row["image"], "width": width, "height": height}
    box = {"x1": 0, "y1": 0, "x2": 2, "y2": 2}
    return Sample.model_validate(
        {"sample_id": kind.name, "problem": row["problem"], "image": ref, "box": box, "crop": None}
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def config(checkpoint: Path) -> RunConfig:
    tree = run_config(
        checkpoint, engine="sglang", trajectories_per_sample=NUM_TRAJECTORIES,
        max_response_tokens=RESPONSE_TOKENS, request_timeout_s=60.0,
        max_concurrent_groups=len(KINDS) + len(HEALTHY),
    ).model_dump()  # fmt: skip
    tree["sglang"]["context_tokens"] = CONTEXT_TOKENS
    return build(tree)


@pytest.fixture(scope="module")
def url(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(config, tmp_path_factory.mktemp("engine") / "engine.log") as url:
        yield url


@pytest.fixture(scope="module")
def renderer(checkpoint: Path) -> CarelessRenderer:
    return CarelessRenderer(Renderer(str(checkpoint)))


@pytest_asyncio.fixture
async def engine(url: str, checkpoint: Path) -> AsyncIterator[HttpEngine]:
    async with HttpEngine(url, request_timeout_s=60.0, control_timeout_s=60.0) as engine:
        await engine.load_folder(str(checkpoint), 0, flush=True)  # so that it serves a version
        yield engine


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_the_error_says_why_and_the_next_request_is_served(
    engine: HttpEngine, renderer: CarelessRenderer, kind: Kind
) -> None:
    with pytest.raises(kind.error) as caught:
        await engine.generate(renderer.request(kind))
    said = str(caught.value)
    print(f"{kind.name}: {type(caught.value).__name__}: {said}")
    assert type(caught.value) is kind.error
    assert said.startswith(kind.reason) and "\n" not in said and len(said) < 500
    answer = await engine.generate(renderer.request(HEALTHY[0]))
    assert len(answer.trajectories) == NUM_TRAJECTORIES
    assert await engine.is_healthy()


async def test_a_run_quarantines_them_and_gets_the_others(
    config: RunConfig, url: str, renderer: CarelessRenderer, checkpoint: Path, tmp_path: Path
) -> None:
    samples = [sample_of(kind, tmp_path) for kind in (*KINDS, *HEALTHY)]
    rules = make_rules(len(HEALTHY), 1, n=NUM_TRAJECTORIES, lease_s=120.0,
                       max_attempts=MAX_ATTEMPTS)  # fmt: skip
    async with running_broker(rules, SampleSource(samples), images=tmp_path) as running:
        tree = config.model_dump()
        tree["broker"]["address"] = running.address
        tree["data"]["train"] = tmp_path / "train.parquet"
        async with (
            working(build(tree), url, renderer) as member,
            learner_at(running.address) as (
                broker,
                learner,
            ),
        ):
            await learner.push(load_model(checkpoint).state_dict(), 0)
            groups = (await learner.take(1)).groups
            assert {group.sample_id for group in groups} == {k.name for k in HEALTHY}
            await broker.ack(1)
            assert (await broker.take(2, 60.0)).exhausted, "all others are given up"
            await broker.finish("the test is over")
            async with asyncio.timeout(60):
                await member
        found = {record.sample_id: record for record in running.service.quarantined}
    assert set(found) == {kind.name for kind in KINDS} and len(found) == len(KINDS)
    for kind in KINDS:
        check_record(found[kind.name], kind)


def check_record(record: Quarantined, kind: Kind) -> None:
    print(f"{kind.name}: {record.line()}")
    assert record.reason.startswith(kind.before or kind.reason), record.reason
    assert not kind.before or "it is no PNG, JPEG" in record.reason
    assert (record.where, record.attempts) == ("rollout", MAX_ATTEMPTS), kind.name


@contextlib.asynccontextmanager
async def working(
    config: RunConfig, url: str, renderer: CarelessRenderer
) -> AsyncIterator[asyncio.Task[None]]:
    """A rollout member on the server; its task ends with the run."""

    @contextlib.asynccontextmanager
    async def attached() -> AsyncIterator[RunningEngine]:
        yield RunningEngine(url)

    ready = asyncio.get_running_loop().create_future()
    ready.set_result(renderer)
    stop, finished = asyncio.Event(), asyncio.Event()
    member = RolloutServer(config, "rollout-0", attached, ServerPool(), ready, stop, finished)
    task = asyncio.create_task(member.live())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
