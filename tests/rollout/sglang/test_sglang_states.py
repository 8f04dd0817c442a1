"""How a server's memory is divided between recurrent states and KV, at Qwen3.5-4B's true sizes.

Holds common/sglang_states.py.
"""

import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import RunConfig
from common.config_cli import build
from common.engines import sglang as command
from common.sglang_states import SLOTS_A_REQUEST, Demand, kv_bytes, memory_ratio, state_bytes
from rollout.engine_process import engine_command, engine_environment

SIZES: dict[str, Any] = {
    "linear_num_key_heads": 16,
    "linear_key_head_dim": 128,
    "linear_num_value_heads": 32,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "num_hidden_layers": 32,
    "full_attention_interval": 4,
    "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 8,
}
MODEL = {
    "model_type": "qwen3_5",
    "architectures": ["Qwen3_5ForConditionalGeneration"],
    "text_config": SIZES,
}
PUBLISHED = Demand(requests=129, prompts=16, prompt_tokens=8192, response_tokens=1024)


def test_sizes_are_those_that_sglang_allocates() -> None:
    recurrent, convolution = 32 * 128 * 128 * 4, (2 * 2048 + 4096) * 3 * 2
    assert state_bytes(MODEL) == 24 * (recurrent + convolution) == 51_511_296
    assert kv_bytes(MODEL) == 8 * 2 * 4 * 256 * 2 == 32_768
    half = {"text_config": SIZES | {"mamba_ssm_dtype": "bfloat16"}}
    assert state_bytes(half) == 24 * (recurrent // 2 + convolution)


def test_the_published_run_needs_about_four_times_as_much_for_states() -> None:
    assert memory_ratio(MODEL, PUBLISHED) == pytest.approx(3.85, abs=0.01)


@given(
    budget=st.floats(1e9, 1e11),
    requests=st.integers(1, 500),
    prompts=st.integers(1, 64),
    prompt_tokens=st.integers(1, 9000),
    response_tokens=st.integers(1, 9000),
)
def test_states_and_kv_run_out_together(
    budget: float, requests: int, prompts: int, prompt_tokens: int, response_tokens: int
) -> None:
    """So that what fits is limited by memory as a whole, whatever it is."""
    demand = Demand(requests, prompts, prompt_tokens, response_tokens)
    ratio = memory_ratio(MODEL, demand)
    states, kv = budget * ratio / (1 + ratio), budget / (1 + ratio)  # as SGLang divides it
    by_states = states / (SLOTS_A_REQUEST * state_bytes(MODEL))
    tokens_a_request = prompts * prompt_tokens / requests + response_tokens
    by_kv = kv / kv_bytes(MODEL) / tokens_a_request
    assert by_states == pytest.approx(by_kv)


def served(folder: Path, **sglang: Any) -> RunConfig:
    (folder / "config.json").write_text(json.dumps(MODEL))
    model = {"path": str(folder)}
    return build({"model": model, "rollout": {"engine": "sglang"}, "sglang": sglang})


@pytest.mark.sglang
@pytest.mark.timeout(300)
def test_sglang_runs_more_requests_when_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own parser, sizes and division: with what it does unasked KV lies idle."""
    config = served(tmp_path)
    environment = engine_environment(config)
    del environment["SGLANG_MAMBA_CONV_DTYPE"]  # of CPUs
    monkeypatch.setattr(command, "has_gpu", lambda: True)
    python, _, *words = engine_command(config, "127.0.0.1", 4000)
    at = words.index("--mamba-full-memory-ratio")

    def divided(flags: list[str]) -> dict[str, Any]:
        program = [python, str(Path(__file__).with_name("sglang_division.py"))]
        done = subprocess.run(
            [*program, str(tmp_path), "50", *flags],
            env=environment, check=True, capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        return json.loads(done.stdout.splitlines()[-1])

    told, unasked = divided(words), divided(words[:at] + words[at + 2 :])
    assert told["state_bytes"] == unasked["state_bytes"] == state_bytes(MODEL)
    assert told["slots_a_request"] == unasked["slots_a_request"] == SLOTS_A_REQUEST
    tokens = PUBLISHED.prompts * PUBLISHED.prompt_tokens + 129 * PUBLISHED.response_tokens
    assert told["requests"] == 129 and told["kv_gib"] * 2**30 > tokens * kv_bytes(MODEL)
    assert unasked["requests"] < 129 and unasked["kv_gib"] * 2**30 > 2 * tokens * kv_bytes(MODEL)


def test_a_server_on_a_gpu_is_told_the_division(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "has_gpu", lambda: True)
    monkeypatch.setattr(command, "find_python", lambda config: Path("/python"))
    own = ["--mamba-full-memory-ratio", "2"]
    words = engine_command(served(tmp_path, extra_flags=own), "127.0.0.1", 4000)
    assert ("--mamba-full-memory-ratio", "3.85") in set(itertools.pairwise(words))
    assert words[-2:] == own  # of two argparse takes the last: a person's


def test_a_server_with_a_number_of_states_is_told_no_division(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "has_gpu", lambda: True)
    monkeypatch.setattr(command, "find_python", lambda config: Path("/python"))
    words = engine_command(served(tmp_path, max_states=245), "127.0.0.1", 4000)
    assert ("--max-mamba-cache-size", "245") in set(itertools.pairwise(words))
    assert "--mamba-full-memory-ratio" not in words
