"""Pictures, reference log-probs and engine servers for the rollout tests."""

import base64
import contextlib
import io
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common.config import RunConfig
from common.config_cli import build
from common.rendering import Renderer
from rollout.engine_process import engine_command, engine_environment, free_port
from tests.plain_pixels import plain_pixel_values
from tests.tiny_model import PROBLEM

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
            "rollout": {"engine": "embedded", "threads": 1, **rollout},
            "weights": {"dtype": dtype, "timeout_s": timeout_s, "backend": "gloo"},
        }
    )


@contextlib.contextmanager
def running_server(config: RunConfig, log: Path) -> Iterator[str]:
    """A real engine server process that asks for no key; yields its URL."""
    port = free_port("127.0.0.1")
    url = f"http://127.0.0.1:{port}"
    command = engine_command(config, "127.0.0.1", port)
    if config.rollout.engine == "embedded":
        command.append("--without-key")
    environment = engine_environment(config)
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        _wait_healthy(process, url, log)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_healthy(process: subprocess.Popen, url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5) as r:
            if r.status == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"no engine after {START_TIMEOUT_S} s: {log.read_text()}")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
