"""How SGLang's own code divides a GPU's memory for a hybrid model; run by its Python, by path.

    SGLANG_PYTHON tests/rollout/sglang/sglang_division.py MODEL_FOLDER GIB FLAGS OF SGLANG ...

GIB is what weights leave. Prints JSON: bytes of a state slot, slots of a request, requests that may
run at once, GiB left for KV. What a GPU resolves by itself (its cache of states keeps snapshots
while the next batch is scheduled) is set here; the rest is as SGLang has it.
"""

import argparse
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sglang.srt.arg_groups.overrides import supports_mamba_cache_extra_buffer
from sglang.srt.configs import Qwen3_5TextConfig
from sglang.srt.mem_cache.kv_cache_configurator import KVCacheConfigurator
from sglang.srt.runtime_context import get_context
from sglang.srt.server_args import ServerArgs
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

_KV_TOKENS, _CONTEXT = 2**20, 2**15  # more than requests could ask for


class _Divided(KVCacheConfigurator):
    pp_size = attn_dp_size = 1

    def __init__(self, text_config: dict[str, Any]) -> None:
        self.mambaish_config = Qwen3_5TextConfig(**text_config)
        self.hybrid_gdn_config = self.mambaish_config
        self.hybrid_kda_config = None
        self.model_config = SimpleNamespace(context_len=_CONTEXT)
        self.spec_algorithm = SpeculativeAlgorithm.NONE
        self.extra_mamba_cache_bytes_per_req = 0

    def fused_entry_bytes(self, sub_pool_name: str) -> None:
        """No draft model."""


def main(folder: Path, gib: float, flags: list[str]) -> None:
    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    asked = parser.parse_args(flags)
    model = json.loads((folder / "config.json").read_text())
    on_gpu = SimpleNamespace(linear_attn_backend=asked.linear_attn_backend)
    assert supports_mamba_cache_extra_buffer(on_gpu, SimpleNamespace(**model))
    ratio = {"mamba_full_memory_ratio": asked.mamba_full_memory_ratio}
    with get_context().override_server_args(
        max_running_requests=asked.max_running_requests,
        mamba_radix_cache_strategy="extra_buffer",
        disable_overlap_schedule=False,
        **{key: value for key, value in ratio.items() if value is not None},
    ):
        divided = _Divided(model["text_config"])
        kv_gib = divided._handle_max_mamba_cache(gib)
        found = {
            "state_bytes": divided.mambaish_config.mamba2_cache_params.mamba_cache_per_req,
            "slots_a_request": divided._calculate_mamba_ratio(),
            "requests": divided.resolve_max_num_reqs(_KV_TOKENS),
            "kv_gib": kv_gib,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
