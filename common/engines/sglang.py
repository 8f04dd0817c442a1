"""The command line and the environment of an SGLang server, from the configuration.

Nothing is started here. What the configuration cannot mean is refused before the minutes that
loading a model takes.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.addresses import split_address
from common.chat_template import SWITCH, names_switch
from common.engines.kind import ROOT, EngineKind, OwnEnvironment
from common.errors import ConfigError
from common.families import family_of_folder
from common.families.family import SglangOnCpu
from common.files import json_object_or_empty
from common.gpus import usable_gpus
from common.kernels import has_delta_layers
from common.network import GLOO_INTERFACE, interface_towards, is_loopback
from common.proxies import without_proxy_for
from common.sglang_states import Demand, memory_ratio

if TYPE_CHECKING:
    from common.config import RunConfig

VENV = ROOT / ".venv-sglang"
OWN = OwnEnvironment(
    goal="sglang",
    with_ours=("rollout",),
    folder=VENV,
    holds="sglang==0.5.23",
    key="sglang.python",
    named=lambda config: config.sglang.python,
)
find_python = OWN.find_python
_SHIM = ROOT / "rollout" / "sglang"  # what SGLang's own Python runs
_CPU_TOTAL_TOKENS = 65536  # SGLang would take most of the machine's memory
_CPU_PREFILL_TOKENS = 1024  # computed in one go; a pause waits for the end of that
_LONGEST_TMPDIR = 60  # bytes
_CONTEXT = "--context-length"
_PICTURES_MIB = 512  # of 17 MiB each: 3,400 tokens of 2,560 numbers in bfloat16
_CPU_STATES_PER_REQUEST = 4  # slots of linear attention: running, cached prefix, and spare


def _by_flag(flags_of: Mapping[str, str]) -> dict[str, str]:
    return {flag: why for why, flags in flags_of.items() for flag in flags.split()}


# Flags that the configuration sets, by the key that does it.
_OURS = _by_flag({
    "model.path": "--model-path --model",
    "rollout.host": "--host",
    "rollout.port": "--port",
    "weights.dtype": "--dtype",
    "sglang.tensor_parallel": "--tp-size --tensor-parallel-size",
    "sglang.memory_fraction": "--mem-fraction-static",
    "sglang.context_tokens": "--context-length",
    "sglang.quantization": "--quantization",
    "rollout.max_concurrent_groups": "--max-running-requests",
    "sglang.max_total_tokens": "--max-total-tokens",
    "sglang.max_states": "--max-mamba-cache-size",
    "sglang.api_key_file": "--api-key --admin-api-key",
    "model.revision": "--revision",
    "prompt.chat_template": "--chat-template",
    "prompt.thinking": "--default-chat-template-kwargs",
})  # fmt: skip
# Flags that must not be given at all, by the reason; "*" is for the rest of a name.
_HARMFUL = _by_flag({
    "the learner numbers the weights": "--weight-version",
    "the machine decides it: a GPU where there is one": "--device",
    "flags in another file escape these checks; write them here": "--config",
    "stop conditions and chat need the tokenizer": "--skip-tokenizer-init",
    "the draft model would keep old weights": "--speculative-*",
    "weight updates reach one whole server only": "--disaggregation-*",
    "weight updates replace whole weights": "--enable-lora --lora-paths",
    "weight updates name tensors as SGLang's own model does": "--model-impl",
    "code from a checkpoint, a request or elsewhere is not run":
        "--trust-remote-code --custom-weight-loader --forward-hooks --sidecar* --warmups "
        "--enable-custom-logit-processor --tool-server",
    "safetensors alone are read: pickled weights can run code": "--load-format",
    "a server's parts are on one machine, and no port of theirs asks for a key":
        "--dist-init-addr --nccl-init-addr --remote-instance-* --weight-cache-* --use-ray "
        "--engine-info-bootstrap-port --gated-launch-port --encoder-* --decoupled-spec-* "
        "--elastic-ep-*",
    "requests would come in where no key is asked for":
        "--smg-* --grpc-* --enable-http2 --tokenizer-worker-num --enable-http-worker-reuseport",
    "it would be sent to every program that connects":
        "--kv-events-config --load-publish-endpoint",
    "the learner computes by the checkpoint's own config.json":
        "--json-model-override-args --model-config-parser",
    "the server would see other pixels than the learner":
        "--image-processor-backend --disable-fast-image-processor --mm-process-config "
        "--limit-mm-data-per-request --language-only --language-model-only",
    "image embeddings of older weights would be used": "--enable-mm-global-cache",
    "the server would see other prompts than the learner":
        "--tokenizer-path --tokenizer-mode --tokenizer-backend --hf-chat-template-name "
        "--completion-template --trust-request-chat-template --allow-auto-truncate",
    "tokens would be sampled by another law than the learner corrects for":
        "--preferred-sampling-params --enable-watermark --watermark-config "
        "--enable-strict-thinking",
})  # fmt: skip
# Environment variables by which SGLang would see other pixels or prompts; not passed on.
_HARMFUL_VARIABLES = (
    "SGLANG_IMAGE_MAX_PIXELS", "SGLANG_RESIZE_RESAMPLE", "SGLANG_MM_AVOID_RETOKENIZE",
    "SGLANG_MM_SKIP_COMPUTE_HASH",
)  # fmt: skip
# Flags that are harmless with the value 1, by the reason against more.
_SINGLE = _by_flag({
    "a weight update reaches one replica of a server; raise rollout.servers instead":
        "--dp-size --data-parallel-size",
    "a weight update knows tensor-parallel ranks only; raise sglang.tensor_parallel instead":
        "--pp-size --pipeline-parallel-size",
    "a server is started on one machine": "--nnodes",
})  # fmt: skip


def sglang_command(config: "RunConfig", host: str, port: int) -> list[str]:
    """The command line of an SGLang server that listens on `host`:`port`.

    Raises:
        ConfigError: no environment, or a flag that is refused.
    """
    check_extra_flags(config)
    requests = config.rollout.max_concurrent_groups * config.rollout.trajectories_per_sample
    flags: dict[str, object | None] = {
        "--model-path": config.model.path,
        "--host": host,
        "--port": port,
        "--load-format": "safetensors",
        "--dtype": config.weights.dtype,
        "--tp-size": config.sglang.tensor_parallel,
        "--mem-fraction-static": config.sglang.memory_fraction,
        "--context-length": config.sglang.context_tokens,
        "--quantization": config.sglang.quantization,
        "--max-running-requests": requests + 1,  # the probe after a push finds room
        "--max-total-tokens": config.sglang.max_total_tokens,
        "--max-mamba-cache-size": config.sglang.max_states,
        # A group's responses are all asked for again after a pause: let the first of them compute
        # the prompt and the others find it.
        "--schedule-policy": "lpm",
        "--log-level-http": "warning",  # a line for each request would hide what matters
    }
    if has_gpu():
        flags |= _division(config, requests)
    else:
        flags = _on_a_cpu(config, flags, requests)
    words = [str(word) for pair in flags.items() if pair[1] is not None for word in pair]
    if not has_gpu():
        words.append("--sleep-on-idle")  # else an idle server keeps a whole core busy
        words += _needs_on_a_cpu(config).switches
    return [str(find_python(config)), str(_SHIM / "launch.py"), *words, *config.sglang.extra_flags]


def sglang_environment(config: "RunConfig") -> dict[str, str]:
    """The environment of an SGLang server: this process's, without our Python paths."""
    left_out = ("PYTHONPATH", *_HARMFUL_VARIABLES)
    environment = {name: text for name, text in os.environ.items() if name not in left_out}
    environment |= without_proxy_for(environment, [config.rollout.host])  # it asks itself
    if len(environment.get("TMPDIR", "")) > _LONGEST_TMPDIR:
        environment["TMPDIR"] = "/tmp"  # SGLang makes Unix sockets there, whose paths are short
    environment |= {
        # Else Python would look for every module in launch.py's folder first.
        "PYTHONSAFEPATH": "1",
        "VISION_OPD_PARENT_PID": str(os.getpid()),
        # One patience serves both in SGLang: joining a group, and each broadcast in it. Neither
        # may keep a server silent for longer than the learner waits for it.
        "VISION_OPD_GROUP_TIMEOUT_S": f"{config.weights.timeout_s:g}",
        # Of encoded pictures: else one is encoded again for each batch that has a response to it.
        "SGLANG_VLM_CACHE_SIZE_MB": str(_PICTURES_MIB),
    }
    if Path(config.model.path).is_dir():
        environment["HF_HUB_OFFLINE"] = "1"
    if config.rollout.threads is not None:
        environment["OMP_NUM_THREADS"] = str(config.rollout.threads)
    if not has_gpu():
        environment["PYTHONPATH"] = str(_SHIM / "cpu")
        environment["SGLANG_USE_CPU_ENGINE"] = "1"
        # Small models are slower with more, and servers share the machine.
        environment.setdefault("OMP_NUM_THREADS", "1")
        environment |= _needs_on_a_cpu(config).environment
    # The embedded engine finds it out when it joins a push, SGLang must know it from the start.
    if interface := interface_towards(_learner_host(config)):
        environment.setdefault(GLOO_INTERFACE, interface)
    return environment


def _learner_host(config: "RunConfig") -> str:
    """Where pushes will come from, as far as is known here: from the broker's network otherwise."""
    host = config.weights.host
    if is_loopback(host):
        host, _ = split_address(config.broker.address)
    return host


def check_extra_flags(config: "RunConfig") -> None:
    """Refuses flags that the configuration sets already, and those that break the training.

    Raises:
        ConfigError: with the flag and the fix.
    """
    for flag, value in _flags(config.sglang.extra_flags):
        for name, key in _OURS.items():
            if _means(flag, name):
                raise _refused(flag, f"it is set from {key}. Fix: set {key}")
        for name, reason in _HARMFUL.items():
            if _means(flag, name):
                raise _refused(flag, f"{reason}. Fix: leave it out")
        for name, reason in _SINGLE.items():
            if _means(flag, name) and value != "1":
                raise _refused(f"{flag} {value}".strip(), f"{reason}. Fix: leave it out")


def has_gpu() -> bool:
    """Whether an NVIDIA GPU can be used here: there is one, and CUDA_VISIBLE_DEVICES leaves it us.

    Raises:
        ConfigError: nvidia-smi does not answer.
    """
    return bool(usable_gpus())


def _division(config: "RunConfig", requests: int) -> dict[str, object]:
    """How a GPU's memory is divided, where a model has recurrent states of the known form."""
    model = json_object_or_empty(Path(config.model.path) / "config.json")
    if config.sglang.max_states is not None or not has_delta_layers(config.model.path):
        return {}  # a number of states leaves nothing to divide
    rollout = config.rollout
    demand = Demand(
        requests=requests + 1,
        prompts=rollout.max_concurrent_groups,
        prompt_tokens=config.model.max_prompt_tokens,
        response_tokens=rollout.max_response_tokens,
    )
    try:
        return {"--mamba-full-memory-ratio": f"{memory_ratio(model, demand):.3g}"}
    except (KeyError, TypeError, ZeroDivisionError):
        return {}  # SGLang's own


def _on_a_cpu(
    config: "RunConfig", flags: Mapping[str, object | None], requests: int
) -> dict[str, object | None]:
    """The flags as a machine without a GPU needs them, whatever its processor can do."""
    if config.sglang.tensor_parallel > 1:
        raise ConfigError(
            f"sglang.tensor_parallel = {config.sglang.tensor_parallel}: this machine has no NVIDIA "
            "GPU to split a server over. Fix: sglang.tensor_parallel = 1"
        )
    changed: dict[str, object | None] = {
        **flags,
        "--device": "cpu",
        "--chunked-prefill-size": _CPU_PREFILL_TOKENS,
        "--attention-backend": "torch_native",  # the default asks for Intel's AMX
        "--max-total-tokens": config.sglang.max_total_tokens or _CPU_TOTAL_TOKENS,
    }
    changed |= _needs_on_a_cpu(config).flags
    if has_delta_layers(config.model.path):
        slots = config.sglang.max_states or max(128, _CPU_STATES_PER_REQUEST * requests)
        changed["--max-mamba-cache-size"] = slots
    return changed


def _needs_on_a_cpu(config: "RunConfig") -> SglangOnCpu:
    family = family_of_folder(config.model.path)
    return family.sglang_cpu if family else SglangOnCpu()


def _flags(words: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(flag, its first value or nothing), of "--flag value" and "--flag=value" alike."""
    for index, word in enumerate(words):
        if not word.startswith("--"):
            continue
        flag, equals, value = word.partition("=")
        following = words[index + 1] if index + 1 < len(words) else ""
        yield flag, value if equals else following


def _means(flag: str, name: str) -> bool:
    """Whether argparse could read `flag` as `name`: it takes unique beginnings for the whole."""
    family = name.removesuffix("*")
    return name.startswith(flag) or (family != name and flag.startswith(family))


def _refused(flag: str, reason: str) -> ConfigError:
    return ConfigError(f"sglang.extra_flags: {flag} is refused: {reason}")


# ---- what else differs from other engines --------------------------------------------------------
def _context_limit(config: "RunConfig") -> tuple[int, str] | None:
    for flag, value in _flags(config.sglang.extra_flags):
        if flag == _CONTEXT and value.isdecimal():
            return int(value), f"sglang.extra_flags: {_CONTEXT}"
    tokens = config.sglang.context_tokens
    return None if tokens is None else (tokens, "sglang.context_tokens")


def _check_folder(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        if not path.name.startswith("model"):
            raise ConfigError(
                f"checkpoint {str(folder)!r} holds {path.name} beside the model's files: SGLang "
                "would load it over the model. Fix: move it away"
            )


def _serving_flags(config: "RunConfig", templates: Sequence[str]) -> list[str]:
    flags = []
    has_several = any(Path(config.model.path).glob("additional_chat_templates/*.jinja"))
    if config.prompt.chat_template is None and has_several:
        flags += ["--hf-chat-template-name", "default"]  # SGLang's choice is the first one it finds
    if any(map(names_switch, templates)):  # transformers logs each call otherwise
        # A request may still ask for the other mode.
        flags += ["--default-chat-template-kwargs", json.dumps({SWITCH: config.prompt.thinking})]
    return flags


def _server_gpus(config: "RunConfig") -> tuple[int, str]:
    gpus = config.sglang.tensor_parallel
    return gpus, f"sglang.tensor_parallel = {gpus}"


SGLANG = EngineKind(
    name="sglang",
    title="SGLang",
    command=sglang_command,
    environment=sglang_environment,
    own=OWN,
    check=check_extra_flags,
    serving_flags=_serving_flags,
    check_folder=_check_folder,
    context_limit=_context_limit,
    server_gpus=_server_gpus,
    is_deterministic=False,
    keeps_copies=False,
)
