"""Pictures, reference log-probs, engine servers and a member of a run, for the rollout tests."""

import asyncio
import base64
import contextlib
import io
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import common.torchvision_compat  # noqa: F401  (must come before transformers)
from broker.client import BrokerClient
from broker.ledger.entry import Rules
from common.config import RunConfig
from common.config_cli import build
from common.dataset import read_samples
from common.images import ImageStore
from common.rendering import Renderer
from common.source import SampleSource
from common.types import Sample
from rollout.engine_process import engine_command, engine_environment, free_port
from rollout.pool import ServerPool
from rollout.rollout_server import RolloutServer, RunningEngine
from tests.broker.support import make_service, running_broker
from tests.plain_pixels import plain_pixel_values
from tests.rollout.learner_player import LearnerPlayer, learner_at
from tests.tiny_model import PROBLEM
from tests.tiny_world import make_dataset

START_TIMEOUT_S = 120


def png(width: int, height: int, seed: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    picture = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def data_url(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def load_model(folder: Path):
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def reference_logprobs(
    model, renderer: Renderer, image: bytes | None, response: list[int], *,
    temperature: float = 1.0, banned: tuple[int, ...] = (), input_ids: list[int] | None = None,
    problem: str = PROBLEM,
) -> np.ndarray:  # fmt: skip
    """float32 [T]: log-probs of a response by one plain forward pass of the whole sequence."""
    if image is None:
        prompt_ids = torch.tensor(input_ids)
        inputs = {}
    else:
        rendered = renderer.prompt(problem, Image.open(io.BytesIO(image)).convert("RGB"))
        prompt_ids = torch.tensor(rendered.input_ids)
        types = torch.cat([torch.tensor(rendered.mm_token_type_ids), torch.zeros(len(response))])
        inputs = {
            "mm_token_type_ids": types.long()[None],
            "pixel_values": torch.tensor(plain_pixel_values(renderer, rendered)),
            "image_grid_thw": torch.tensor(rendered.image_grid_thw),
        }
    targets = torch.tensor(response, dtype=torch.int64)
    ids = torch.cat([prompt_ids, targets])
    with torch.no_grad():
        logits = model(input_ids=ids[None], **inputs).logits[0, len(prompt_ids) - 1 : -1].float()
    logits[:, list(banned)] -= 1e9
    logprobs = torch.log_softmax(logits / temperature, dim=-1)
    return logprobs.gather(1, targets[:, None])[:, 0].numpy()


def run_config(
    checkpoint: Path, *, timeout_s: float = 20.0, dtype: str = "float32", **rollout
) -> RunConfig:
    return build(
        {
            "model": {"path": str(checkpoint), "dtype": dtype},
            # An engine that does not come up says what it was at, before the test's own limit.
            "rollout": {
                "engine": "embedded",
                "threads": 1,
                "start_timeout_s": START_TIMEOUT_S,
                **rollout,
            },
            "weights": {"dtype": dtype, "timeout_s": timeout_s, "backend": "gloo"},
        }
    )


@contextlib.contextmanager
def running_server(config: RunConfig, log: Path) -> Iterator[str]:
    """A real engine server process that asks for no key; yields its URL."""
    for _ in range(2):
        process, url = _start(config, log)
        try:
            if _is_healthy(process, url, log):
                yield url
                return
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    raise AssertionError("two free ports were taken before the engine had them")


def _start(config: RunConfig, log: Path) -> tuple[subprocess.Popen, str]:
    port = free_port("127.0.0.1")
    command = engine_command(config, "127.0.0.1", port)
    if "rollout.embedded" in command:
        command.append("--without-key")
    environment = engine_environment(config)
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    return process, f"http://127.0.0.1:{port}"


def _is_healthy(process: subprocess.Popen, url: str, log: Path) -> bool:
    """Wait until it serves; False: another test has got its port, which was free at first."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if "address already in use" in log.read_text(errors="replace").lower():
            return False
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=30) as r:
            if r.status == 200:
                return True
        time.sleep(0.1)
    raise AssertionError(f"no engine after {START_TIMEOUT_S} s: {log.read_text()}")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "deploy" / "quickstart" / "checkpoint"
KEY = "a-key-of-the-tests"

QUESTION = "Which digit is on the red tag?"

DEAD_PROXIES = {
    **dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9"),
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9"),
    **dict.fromkeys(("no_proxy", "NO_PROXY"), ""),
}


class Served:
    """A real `python -m rollout.serve` and what it printed.

    Its environment names HTTP proxies that do not answer: SGLang asks itself whether it is warm.
    """

    def __init__(self, checkpoint: Path, folder: Path, engine: str) -> None:
        self.engine = engine
        self.checkpoint = checkpoint
        self.folder = folder
        (folder / "key").write_text(KEY + "\n")
        (folder / "key").chmod(0o600)
        self.port = free_port("127.0.0.1")
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "rollout.serve", str(checkpoint), "--port", str(self.port)]
        command += ["--api-key-file", str(folder / "key"), "--weights.dtype", "float32"]
        command += [] if engine == "sglang" else ["--engine", engine]
        self.output = folder / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=folder, stdout=output, stderr=output,
                env={**os.environ, **DEAD_PROXIES, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},
            )  # fmt: skip

    def wait(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while "is served at" not in self.output.read_text():
            assert self.process.poll() is None and time.monotonic() < deadline, self.report()
            time.sleep(0.2)
        self._session = next(
            sid for _, sid, _, parent in _processes() if parent == self.process.pid
        )

    def session(self) -> list[int]:
        """Living processes of the engine, which leads a session of its own."""
        return [
            pid
            for pid, session, state, _ in _processes()
            if session == self._session and not state.startswith("Z")
        ]

    def report(self) -> str:
        logs = [path.read_text()[-3000:] for path in self.folder.glob("vision-opd-serve-*/*.log")]
        return "\n".join([self.output.read_text(), *logs])


def _processes() -> list[tuple[int, int, str, int]]:
    """(pid, session, state, parent) of all that run."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,sess=,stat=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    rows = (line.split() for line in listed.splitlines())
    return [(int(pid), int(sid), state, int(parent)) for pid, sid, state, parent in rows]


def chat_body(picture: bytes, **options: Any) -> dict[str, Any]:
    url = "data:image/png;base64," + base64.b64encode(picture).decode()
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": QUESTION},
    ]
    return {"messages": [{"role": "user", "content": content}], **options}


def ask(served: Served, picture: bytes, key: str = KEY, **options: Any) -> dict[str, Any]:
    body = chat_body(picture, **{"model": "thinker", **options})
    request = urllib.request.Request(
        f"{served.url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def reference(checkpoint: Path, picture: bytes, response: list[int]) -> tuple[list[int], Any]:
    """The prompt's ids and the response's log-probs, by transformers."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, enable_thinking=False
    )
    image = Image.open(BytesIO(picture)).convert("RGB")
    inputs = processor(text=[text], images=[image], return_tensors="pt")
    prompt: list[int] = inputs["input_ids"][0].tolist()
    inputs["input_ids"] = torch.tensor([prompt + response])
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        zeros = torch.zeros(1, len(response), dtype=inputs["mm_token_type_ids"].dtype)
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], zeros], dim=1)
    with torch.no_grad():
        logits = model(**inputs).logits[0, len(prompt) - 1 : -1].float()
    logprobs = torch.log_softmax(logits, dim=-1)
    return prompt, logprobs.gather(1, torch.tensor(response)[:, None])[:, 0]


NUM_TRAJECTORIES = 3


@dataclass
class Run:
    """A broker in this process, one rollout member attached to a server, and a learner."""

    address: str
    images: ImageStore
    samples: dict[str, Sample]
    member: asyncio.Task[None]
    stop: asyncio.Event
    learners: contextlib.AsyncExitStack
    broker: BrokerClient = field(init=False)  # the learner's
    learner: LearnerPlayer = field(init=False)

    async def start_learner(self) -> None:
        """Another life of the learner, which begins the run anew."""
        await self.learners.aclose()
        started = await self.learners.enter_async_context(learner_at(self.address))
        self.broker, self.learner = started


def config_for(
    checkpoint: Path, urls: tuple[str, ...], train: Path, address: str, **rollout
) -> RunConfig:
    settings = {"trajectories_per_sample": NUM_TRAJECTORIES, "max_response_tokens": 6, **rollout}
    tree = run_config(checkpoint, engine_urls=urls, **settings).model_dump()
    tree["data"] |= {"train": str(train), "heldout": str(train)}
    tree["broker"]["address"] = address
    tree["cluster"]["drain_s"] = 10.0
    return build(tree)


async def live(config: RunConfig, renderer, stop: asyncio.Event) -> None:
    """The members of one rollout process, attached to the engines of the configuration."""
    pool, finished = ServerPool(), asyncio.Event()
    ready = asyncio.get_running_loop().create_future()
    ready.set_result(renderer)
    async with asyncio.TaskGroup() as tasks:
        for number, url in enumerate(config.rollout.engine_urls):

            @contextlib.asynccontextmanager
            async def attached(url: str = url) -> AsyncIterator[RunningEngine]:
                yield RunningEngine(url)

            member = RolloutServer(
                config, f"rollout-{number}", attached, pool, ready, stop, finished
            )
            tasks.create_task(member.live())


@contextlib.asynccontextmanager
async def started_run(
    tmp_path: Path, checkpoint: Path, renderer, *urls: str, has_images: bool = True, **rollout
) -> AsyncIterator[Run]:
    train = make_dataset(tmp_path / "data", 8)
    samples, _ = read_samples(train)
    rules = Rules(4, 1, NUM_TRAJECTORIES, 60.0, 2, None)
    source = SampleSource(samples, epochs=4, seed=0)
    heldout = {sample.sample_id: sample for sample in samples}
    service = make_service(source, rules, heldout=heldout)
    async with running_broker(
        rules, source, images=train.parent, drain_s=2.0, service=service
    ) as running:
        elsewhere = train if has_images else tmp_path / "not here" / "samples.parquet"
        config = config_for(checkpoint, urls, elsewhere, running.address, **rollout)
        stop = asyncio.Event()
        member = asyncio.create_task(live(config, renderer, stop))
        try:
            async with contextlib.AsyncExitStack() as learners:
                images = ImageStore(train.parent)
                run = Run(running.address, images, heldout, member, stop, learners)
                await run.start_learner()
                yield run
                await run.broker.finish("the test is over")
                if not member.done():
                    async with asyncio.timeout(60):
                        await member
        finally:
            member.cancel()
            await asyncio.gather(member, return_exceptions=True)
