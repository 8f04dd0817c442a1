"""The engines that must keep the contract, each with the model families it must keep it for.

A test takes the family Qwen3-VL in float32; those of a module that names FAMILIES take all of them
("quickstart" is the checkpoint of the quickstart, a Qwen3-VL that has learned to answer), and those
of one that names a DTYPE a checkpoint and servers in that. Real SGLang servers start
under the marker `sglang` alone. pytest orders tests by `served`, so that each server starts once
and one at a time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from common.engines import ENGINES
from common.rendering import Renderer
from tests.rollout.support import load_model, run_config, running_server
from tests.tiny_model import make_tiny_checkpoint, store_as_published
from tests.waiting import until

QUICKSTART = Path(__file__).resolve().parents[3] / "deploy" / "quickstart" / "checkpoint"
GROUP_TIMEOUT_S = 4.0  # of silence in a weight update


class Api:
    """Raw HTTP, so that the tests see bodies and status codes."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session

    async def post(self, path: str, body=None, timeout_s: float = 150.0):
        """(status, parsed body or text)."""
        async with self.session.post(
            self.url + path, json=body, timeout=aiohttp.ClientTimeout(total=timeout_s)
        ) as response:
            return response.status, await _content(response)

    async def get(self, path: str, timeout_s: float = 150.0):
        async with self.session.get(
            self.url + path, timeout=aiohttp.ClientTimeout(total=timeout_s)
        ) as response:
            return response.status, await _content(response)

    async def status(self, method: str, path: str, headers: dict[str, str]) -> int:
        async with self.session.request(method, self.url + path, headers=headers) as response:
            return response.status

    async def ok(self, path: str, body=None, timeout_s: float = 150.0):
        status, content = await self.post(path, body, timeout_s)
        assert status == 200, (path, status, content)
        return content

    async def until_running(self) -> None:
        """Until it is at a request: no cache can be flushed then."""

        async def is_running() -> bool:
            return (await self.post("/flush_cache"))[0] == 400

        await until(is_running)

    async def generate(self, body: dict, banned: list[int] | None = None, **params):
        sampling = {"temperature": 1.0, "max_new_tokens": 8, **params}
        if banned:
            sampling["logit_bias"] = {str(token): -1e9 for token in banned}
        return await self.ok(
            "/generate", {"return_logprob": True, "sampling_params": sampling, **body}
        )


async def _content(response: aiohttp.ClientResponse):
    if response.content_type == "application/json":
        return await response.json()
    return await response.text()


def _marks(engine: str, family: str, dtype: str) -> tuple[pytest.MarkDecorator, ...]:
    if engine == "sglang":
        return (pytest.mark.sglang, pytest.mark.timeout(300))
    is_usual = family in ("qwen3_vl", "quickstart") and dtype == "float32"
    return () if is_usual else (pytest.mark.slow,)


def pytest_generate_tests(metafunc) -> None:
    if "served" not in metafunc.fixturenames:
        return
    families = getattr(metafunc.module, "FAMILIES", ("qwen3_vl",))
    dtype = getattr(metafunc.module, "DTYPE", "float32")
    suffix = "" if dtype == "float32" else f"-{dtype}"
    parameters = [
        pytest.param(
            (engine, family, dtype),
            id=f"{engine}-{family}{suffix}",
            marks=_marks(engine, family, dtype),
        )
        for engine in ENGINES
        for family in families
    ]
    metafunc.parametrize("served", parameters, indirect=True, scope="session")


@dataclass(frozen=True)
class Served:
    """A running engine and the checkpoint that it has loaded."""

    engine: str
    family: str
    url: str
    checkpoint: Path
    other_checkpoint: Path  # the same architecture with other weights, but for the quickstart's
    pixel_log: Path | None = None  # what the model was shown; None: it keeps none

    @property
    def is_sglang(self) -> bool:
        return self.engine == "sglang"

    @property
    def many_tokens(self) -> int:
        """So many that generating them takes a while, over a second, but not many of them."""
        if self.is_sglang:
            return 1500
        return 500 if self.family == "qwen3_5" else 2400


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory) -> Callable[[str, int, str], Path]:
    """Folder of a tiny model, by family, seed and dtype."""
    root, made = tmp_path_factory.mktemp("models"), {}

    def find(family: str, seed: int, dtype: str) -> Path:
        if family == "quickstart":
            return QUICKSTART
        if (family, seed, dtype) not in made:
            folder = make_tiny_checkpoint(
                root / f"{family}-{seed}-{dtype}", seed=seed, family=family
            )
            if dtype == "bfloat16":
                store_as_published(folder)
            made[family, seed, dtype] = folder
        return made[family, seed, dtype]

    return find


@pytest.fixture(scope="session")
def served(request, checkpoint_of, tmp_path_factory) -> Iterator[Served]:
    engine, family, dtype = request.param
    first, other = checkpoint_of(family, 0, dtype), checkpoint_of(family, 1, dtype)
    log = tmp_path_factory.mktemp("engine") / f"{engine}-{family}-{dtype}.log"
    config = run_config(first, timeout_s=GROUP_TIMEOUT_S, dtype=dtype, engine=engine)
    if engine == "sglang":  # as deploy/README.md says, for deploy.trace
        section = config.sglang.model_copy(update={"extra_flags": ("--enable-metrics",)})
        config = config.model_copy(update={"sglang": section})
    pixel_log = log.with_suffix(".pixels") if engine == "sglang" else None
    with pytest.MonkeyPatch.context() as patch:
        if pixel_log is not None:
            patch.setenv("VISION_OPD_PIXEL_LOG", str(pixel_log))
        with running_server(config, log) as url:
            yield Served(engine, family, url, first, other, pixel_log)


@pytest.fixture(scope="session")
def checkpoint(served) -> Path:
    return served.checkpoint


@pytest.fixture(scope="session")
def other_checkpoint(served) -> Path:
    return served.other_checkpoint


@pytest.fixture(scope="session")
def renderer(checkpoint) -> Renderer:
    return Renderer(str(checkpoint))


@pytest.fixture(scope="session")
def model(checkpoint):
    return load_model(checkpoint)


@pytest.fixture(scope="session")
def other_model(other_checkpoint):
    return load_model(other_checkpoint)


@pytest_asyncio.fixture
async def api(served):
    """An engine that serves the first checkpoint, not paused, with no session open."""
    # After an HTTP 500 SGLang's server drops the connection, which the next request would meet.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        api = Api(served.url, session)
        yield api
        await api.post("/abort_request", {"abort_all": True})
        await api.post("/end_weight_update", {})
        await api.ok("/continue_generation", {})
        await api.ok("/update_weights_from_disk", {
            "model_path": str(served.checkpoint), "weight_version": "default",
        })  # fmt: skip
