"""How engines are started: command lines, environments, refusals, progress and death."""

import asyncio
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import web

from common import gpus
from common.config import RunConfig
from common.config_cli import build
from common.errors import ConfigError, EngineError
from common.log_files import RotatingLog, spawn_logged
from common.push_groups import PREFIX
from learner.push.group import PushGroup
from rollout import engine_process
from rollout.engine_process import EngineLog, EngineProcess, engine_command, engine_environment
from rollout.sglang import command

LAUNCH = Path(command.__file__).with_name("launch.py")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    has_gpu(monkeypatch, False)


def has_gpu(monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    monkeypatch.setattr(command, "has_gpu", lambda: answer)


def sglang_config(**sections: dict[str, Any]) -> RunConfig:
    rollout = {"engine": "sglang", "max_concurrent_groups": 4, "trajectories_per_sample": 8}
    sglang = {"python": sys.executable}
    return build(
        {
            **sections,
            "rollout": rollout | sections.get("rollout", {}),
            "sglang": sglang | sections.get("sglang", {}),
        }
    )


def refusal(config: RunConfig, host: str = "127.0.0.1") -> str:
    with pytest.raises(ConfigError) as error:
        engine_command(config, host, 4000)
    assert ". Fix: " in str(error.value)
    return str(error.value)


def test_sglang_gets_its_flags_from_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    has_gpu(monkeypatch, True)
    config = sglang_config(
        model={"path": "a/model"},
        weights={"dtype": "bfloat16"},
        sglang={
            "tensor_parallel": 2,
            "memory_fraction": 0.5,
            "context_tokens": 9000,
            "max_total_tokens": 100000,
            "max_states": 165,
            "quantization": "fp8",
            "extra_flags": ["--attention-backend", "fa3", "--dp-size=1"],
        },
    )
    assert engine_command(config, "127.0.0.1", 4000) == [
        *(sys.executable, str(LAUNCH)),
        *("--model-path", "a/model", "--host", "127.0.0.1", "--port", "4000"),
        *(
            "--load-format",
            "safetensors",
            "--dtype",
            "bfloat16",
            "--tp-size",
            "2",
            "--mem-fraction-static",
            "0.5",
        ),
        *("--context-length", "9000", "--quantization", "fp8"),
        *("--max-running-requests", "33", "--max-total-tokens", "100000"),
        *("--max-mamba-cache-size", "165"),
        *("--schedule-policy", "lpm", "--log-level-http", "warning"),
        *("--attention-backend", "fa3", "--dp-size=1"),
    ]


def test_what_is_not_configured_is_left_to_sglang(monkeypatch: pytest.MonkeyPatch) -> None:
    has_gpu(monkeypatch, True)
    words = engine_command(sglang_config(), "127.0.0.1", 4000)
    for flag in ("--mem-fraction-static", "--context-length", "--quantization", "--device"):
        assert flag not in words
    assert "--max-total-tokens" not in words and "--weight-version" not in words


def test_a_machine_without_a_gpu_gets_what_a_cpu_needs() -> None:
    words = engine_command(sglang_config(), "127.0.0.1", 4000)
    pairs = set(itertools.pairwise(words))
    assert {
        ("--device", "cpu"),
        ("--attention-backend", "torch_native"),
        ("--max-total-tokens", "65536"),
    } <= pairs
    environment = engine_environment(sglang_config())
    assert environment["SGLANG_USE_CPU_ENGINE"] == "1"
    assert environment["PYTHONPATH"] == str(LAUNCH.parent / "cpu")
    assert (LAUNCH.parent / "cpu" / "sitecustomize.py").is_file()


@pytest.mark.sglang
def test_every_flag_that_is_refused_is_one_of_sglangs() -> None:
    """A name that SGLang does not have would guard nothing."""
    config = sglang_config(sglang={"python": None})
    helps = subprocess.run(
        [str(command.find_python(config)), "-m", "sglang.launch_server", "--help"],
        env=engine_environment(config), capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    known = set(re.findall(r"--[a-z0-9][a-z0-9-]*", helps))
    names = {*command._OURS, *command._HARMFUL, *command._SINGLE}
    assert {name for name in names if not name.endswith("*")} - known == set()
    families = [name.removesuffix("*") for name in names if name.endswith("*")]
    assert all(any(flag.startswith(family) for flag in known) for family in families)


def test_variables_that_change_pixels_or_prompts_stay_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harmful = ("SGLANG_IMAGE_MAX_PIXELS", "SGLANG_RESIZE_RESAMPLE", "SGLANG_MM_AVOID_RETOKENIZE")
    for name in harmful:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SGLANG_TORCH_PROFILER_DIR", "/tmp")
    environment = engine_environment(sglang_config())
    assert not environment.keys() & set(harmful)
    assert "SGLANG_TORCH_PROFILER_DIR" in environment


@pytest.mark.parametrize("text_config", [{"layer_types": ["linear_attention", "full_attention"]},
                                         {"model_type": "qwen3_5_text"}])  # fmt: skip
def test_linear_attention_on_a_cpu_needs_exact_states(
    tmp_path: Path, text_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {"model_type": "qwen3_5", "text_config": text_config}
    (tmp_path / "config.json").write_text(json.dumps(content))
    config = sglang_config(model={"path": str(tmp_path)})
    words = engine_command(config, "127.0.0.1", 4000)
    assert "--disable-overlap-schedule" in words
    assert words[words.index("--mamba-ssm-dtype") + 1] == "float32"
    assert words[words.index("--max-mamba-cache-size") + 1] == "128"
    environment = engine_environment(config)
    assert environment["SGLANG_MAMBA_CONV_DTYPE"] == "float32"
    assert environment["HF_HUB_OFFLINE"] == "1"
    few = sglang_config(model={"path": str(tmp_path)}, sglang={"max_states": 9})
    words = engine_command(few, "127.0.0.1", 4000)
    assert words[words.index("--max-mamba-cache-size") + 1] == "9"
    has_gpu(monkeypatch, True)
    words = engine_command(config, "127.0.0.1", 4000)
    assert "--disable-overlap-schedule" not in words
    assert "--mamba-full-memory-ratio" not in words  # a model that does not tell its sizes


def test_the_environment_of_sglang_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    has_gpu(monkeypatch, True)
    config = sglang_config(weights={"timeout_s": 7.5}, model={"path": "some/name"})
    environment = engine_environment(config)
    for absent in ("PYTHONPATH", "OMP_NUM_THREADS", "HF_HUB_OFFLINE", "SGLANG_USE_CPU_ENGINE"):
        assert absent not in environment
    assert environment["VISION_OPD_GROUP_TIMEOUT_S"] == "7.5"
    assert environment["VISION_OPD_PARENT_PID"] == str(os.getpid())
    assert environment["SGLANG_VLM_CACHE_SIZE_MB"] == "512"
    assert environment["PATH"] == os.environ["PATH"]
    threads = engine_environment(sglang_config(rollout={"threads": 3}))
    assert threads["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(("ours", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_of_the_embedded_engine_sleep_unless_told(
    monkeypatch: pytest.MonkeyPatch, ours: str | None, expected: str
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if ours is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", ours)
    config = build({"rollout": {"engine": "embedded"}})
    assert engine_environment(config)["OMP_WAIT_POLICY"] == expected


def test_the_embedded_engine_runs_in_our_environment() -> None:
    config = build({"rollout": {"engine": "embedded"}})
    assert engine_command(config, "127.0.0.1", 4000)[:3] == [
        sys.executable, "-m", "rollout.embedded",
    ]  # fmt: skip
    assert "VISION_OPD_PARENT_PID" not in engine_environment(config)


def test_sglang_is_told_the_interface_that_leads_to_the_learner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    ways = {"127.0.0.1": "lo", "10.0.0.1": "eth7", "10.0.0.2": "eth8"}
    monkeypatch.setattr(engine_process, "interface_towards", ways.get)
    here, there = "tcp://127.0.0.1:5570", "tcp://10.0.0.2:5570"
    for learner, broker, interface in (
        ("127.0.0.1", here, "lo"),
        ("10.0.0.1", there, "eth7"),
        ("127.0.0.1", there, "eth8"),  # nobody said where the learner is: beside the broker
    ):
        config = sglang_config(weights={"host": learner}, broker={"address": broker})
        assert engine_environment(config)["GLOO_SOCKET_IFNAME"] == interface
    unknown = sglang_config(weights={"host": "10.0.0.3"})
    assert "GLOO_SOCKET_IFNAME" not in engine_environment(unknown)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth9")
    assert engine_environment(unknown)["GLOO_SOCKET_IFNAME"] == "eth9"


@pytest.mark.parametrize(
    ("flag", "key"),
    [
        ("--model-path", "model.path"),
        ("--model", "model.path"),
        ("--host", "rollout.host"),
        ("--port", "rollout.port"),
        ("--dtype", "weights.dtype"),
        ("--tp-size", "sglang.tensor_parallel"),
        ("--tensor-parallel-size", "sglang.tensor_parallel"),
        ("--mem-fraction-static", "sglang.memory_fraction"),
        ("--context-length", "sglang.context_tokens"),
        ("--quantization", "sglang.quantization"),
        ("--max-running-requests", "rollout.max_concurrent_groups"),
        ("--max-total-tokens", "sglang.max_total_tokens"),
        ("--max-mamba-cache-size", "sglang.max_states"),
        ("--api-key", "sglang.api_key_file"),
        ("--admin-api-key", "sglang.api_key_file"),
        ("--revision", "model.revision"),
        ("--chat-template", "prompt.chat_template"),
        ("--default-chat-template-kwargs", "prompt.thinking"),
        ("--mem-frac", "sglang.memory_fraction"),  # argparse takes beginnings
    ],
)
@pytest.mark.parametrize("spelling", ["{} 1", "{}=1"])
def test_flags_that_have_a_key_are_refused_with_it(flag: str, key: str, spelling: str) -> None:
    words = ["--attention-backend", "fa3", *spelling.format(flag).split()]
    message = refusal(sglang_config(sglang={"extra_flags": words}))
    assert message.startswith(f"sglang.extra_flags: {flag} is refused: ")
    assert message.endswith(f"Fix: set {key}")


@pytest.mark.parametrize(
    "words",
    [
        "--weight-version 3",
        "--device cuda",
        "--config more.yaml",
        "--skip-tokenizer-init",
        "--speculative-algorithm EAGLE",
        "--speculative-num-steps=3",
        "--spec EAGLE",
        "--disaggregation-mode prefill",
        "--enable-lora",
        "--lora-paths a=b",
        "--model-impl transformers",
        "--trust-remote-code",
        "--custom-weight-loader m.load",
        "--forward-hooks []",
        "--enable-custom-logit-processor",
        "--load-format pt",
        "--load-format=dummy",
        "--dist-init-addr=0.0.0.0:1",
        "--nccl-init-addr a:1",
        "--remote-instance-weight-loader-backend nccl",
        "--encoder-urls http://a",
        "--grpc-port 1",
        "--grpc-mode",
        "--smg-grpc-mode",
        "--enable-http2",
        "--tokenizer-worker-num 2",
        "--kv-events-config {}",
        "--use-ray",
        "--json-model-override-args {}",
        "--image-processor-backend pil",
        "--disable-fast-image-processor",
        "--mm-process-config={}",
        "--language-only",
        "--enable-mm-global-cache",
        "--tokenizer-path other",
        "--hf-chat-template-name tools",
        "--allow-auto-truncate",
        "--preferred-sampling-params {}",
        "--enable-watermark",
        "--dp-size 2",
        "--dp-size=2",
        "--data-parallel-size 2",
        "--dp-size",
        "--pp-size 2",
        "--pipeline-parallel-size=2",
        "--nnodes 2",
    ],
)
def test_flags_that_break_the_training_are_refused(words: str) -> None:
    message = refusal(sglang_config(sglang={"extra_flags": words.split()}))
    assert "sglang.extra_flags: " + words.partition("=")[0].split()[0] in message
    assert message.endswith("Fix: leave it out")


@pytest.mark.parametrize(
    "words",
    [
        "--dp-size 1",
        "--nnodes=1",
        "--spec-trace-dir x",
        "--kv-cache-dtype fp8_e5m2",
        "--enable-mixed-chunk",
    ],
)
def test_other_flags_pass_word_by_word(words: str) -> None:
    config = sglang_config(sglang={"extra_flags": words.split()})
    assert engine_command(config, "127.0.0.1", 1)[-len(words.split()) :] == words.split()


def test_a_server_is_not_split_over_gpus_that_are_not_there() -> None:
    assert "sglang.tensor_parallel = 2" in refusal(sglang_config(sglang={"tensor_parallel": 2}))


def test_a_missing_environment_names_the_set_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    named = refusal(sglang_config(sglang={"python": str(tmp_path / "python")}))
    assert named.startswith("sglang.python = ") and "deploy/setup.sh sglang" in named
    monkeypatch.setattr(command, "VENV", tmp_path)
    default = refusal(sglang_config(sglang={"python": None}))
    assert "rollout.engine" in default and "deploy/setup.sh sglang" in default


def test_the_python_of_a_venv_is_not_resolved(tmp_path: Path) -> None:
    link = tmp_path / "python"
    link.symlink_to(sys.executable)
    config = sglang_config(sglang={"python": str(link)})
    assert engine_command(config, "127.0.0.1", 1)[0] == str(link)


# launch.py runs in SGLang's environment. Here it meets a counterfeit of what it needs of SGLang.


RENDEZVOUS = """
import socket
def TCPStore(master_listen_fd, **rest):
    return socket.socket(fileno=master_listen_fd).getsockname(), rest["host_name"]
def _create_c10d_store(hostname, port, rank, world_size, timeout, use_libuv=True):
    return "torch's own"
"""


MAKE_GROUP = """
import os
def _new_process_group_helper(size, rank, ranks, backend, store, group_name, timeout=None):
    print(group_name, "made with", os.environ.get("TORCH_NCCL_BLOCKING_WAIT"))
"""

UPDATER = """
class SchedulerWeightUpdaterManager:
    def update_weights_from_disk(self, request):
        return request
    def update_weights_from_distributed(self, request):
        raise OSError(request)
    update_weights_from_tensor = update_weights_from_ipc = update_weights_from_disk
"""


def run_launch(
    folder: Path,
    then: str,
    parameters: str = "timeout=None, rank=-1",
    rendezvous: str = RENDEZVOUS,
    make_group: str = MAKE_GROUP,
    updater: str = UPDATER,
    has_torch: bool = False,
    **env: str,
) -> str:
    """What `then` prints in a process that SGLang has spawned, or how that one failed.

    `has_torch`: the real one, not what launch.py needs of it.
    """
    utils = folder / "sglang" / "srt" / "utils"
    utils.mkdir(parents=True)
    if not has_torch:
        torch = folder / "torch" / "distributed"
        torch.mkdir(parents=True)
        (torch / "rendezvous.py").write_text(rendezvous)
        (torch / "distributed_c10d.py").write_text(make_group)
        (torch.parent / "__init__.py").touch()
        (torch / "__init__.py").write_text("class ProcessGroup: pass\n")
    managers = folder / "sglang" / "srt" / "managers"
    (managers / "scheduler_components").mkdir(parents=True)
    (managers / "scheduler_components" / "weight_updater.py").write_text(updater)
    (managers / "mm_schedule.py").write_text("embedding_cache = None\n")
    (utils / "common.py").write_text(
        f"def init_custom_process_group({parameters}):\n    return locals()\n"
    )
    program = f"import runpy; launch = runpy.run_path({str(LAUNCH)!r}, run_name='__mp_main__')\n"
    ours = {"PYTHONPATH": str(folder), "VISION_OPD_GROUP_TIMEOUT_S": "7.5", **env}
    inherited = dict(os.environ)
    inherited.pop("TORCH_NCCL_BLOCKING_WAIT", None)  # set while a thread of this process joins
    ran = subprocess.run(
        [sys.executable, "-c", program + then],
        env=inherited | ours,
        capture_output=True,
        text=True,
    )
    return ran.stdout.strip() or f"{ran.returncode} {ran.stderr.strip()}"


def test_every_process_of_sglang_bounds_the_silence_of_a_group(tmp_path: Path) -> None:
    then = "print(launch['init_custom_process_group'](rank=3))"
    assert run_launch(tmp_path, then) == repr({"timeout": timedelta(seconds=7.5), "rank": 3})


def test_an_sglang_without_that_parameter_is_refused(tmp_path: Path) -> None:
    failure = run_launch(tmp_path, "", parameters="backend=None, rank=-1")
    assert failure.startswith("1 ") and "has no parameter 'timeout'" in failure
    assert "Fix: install sglang==0.5.23" in failure.splitlines()[-1]


def test_the_key_is_hidden_in_its_logs(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    then = (
        "import logging, sys; logging.basicConfig(stream=sys.stdout, force=True)\n"
        "logging.error('args=%s', {'api_key': 's3cret'}); logging.error('%d of %d', 1, 2)"
    )
    printed = run_launch(tmp_path, then, VISION_OPD_API_KEY_FILE=str(tmp_path / "key"))
    assert printed.splitlines() == ["ERROR:root:args={'api_key': '***'}", "ERROR:root:1 of 2"]


def test_without_commands_they_ask_for_a_key_that_nobody_has(tmp_path: Path) -> None:
    then = (
        "import logging, sys; logging.basicConfig(stream=sys.stdout, force=True)\n"
        "flags = launch['without_commands'](['--no-commands', '--a', '1'])\n"
        "print(len(flags[-1]), flags[:-1]); logging.error('%s', flags[-1])\n"
        "print(launch['without_commands'](['--a', '1']))"
    )
    assert sorted(run_launch(tmp_path, then).splitlines()) == [
        "64 ['--a', '1', '--admin-api-key']", "ERROR:root:***", "['--a', '1']",
    ]  # fmt: skip


def test_its_rendezvous_listens_at_its_address_alone(tmp_path: Path) -> None:
    """torch listens at every address of the machine."""
    port = engine_process.free_port("127.0.0.1")
    then = (
        "from torch.distributed.rendezvous import _create_c10d_store as create\n"
        f"print(create('127.0.0.1', {port}, 0, 1, None), create('127.0.0.1', {port}, 1, 2, None))"
    )
    assert run_launch(tmp_path, then) == f"(('127.0.0.1', {port}), '127.0.0.1') torch's own"


def test_encoded_pictures_are_forgotten_with_the_weights_that_encoded_them(tmp_path: Path) -> None:
    """Also where an update failed: some of its weights may have come."""
    then = (
        "from sglang.srt.managers import mm_schedule\n"
        "from sglang.srt.managers.scheduler_components import weight_updater\n"
        "manager = weight_updater.SchedulerWeightUpdaterManager()\n"
        "print(manager.update_weights_from_disk(7))\n"  # before there is a cache
        "mm_schedule.embedding_cache = {1: 2}\n"
        "print(manager.update_weights_from_disk(8), mm_schedule.embedding_cache)\n"
        "mm_schedule.embedding_cache[3] = 4\n"
        "try: manager.update_weights_from_distributed('lost')\n"
        "except OSError as error: print(error, mm_schedule.embedding_cache)"
    )
    assert run_launch(tmp_path, then).splitlines() == ["7", "8 {}", "lost {}"]


def test_an_sglang_with_another_updater_is_refused(tmp_path: Path) -> None:
    failure = run_launch(tmp_path, "", updater="class SchedulerWeightUpdaterManager: pass\n")
    assert failure.startswith("1 ") and "older weights encoded them. Fix: install" in failure


def test_a_torch_without_that_function_is_refused(tmp_path: Path) -> None:
    failure = run_launch(tmp_path, "", rendezvous="")
    assert failure.startswith("1 ") and "would listen on every interface" in failure


def test_groups_of_others_are_made_as_torch_makes_them(tmp_path: Path) -> None:
    then = (
        "from torch.distributed.distributed_c10d import _new_process_group_helper as make\n"
        "make(1, 0, [], 'nccl', None, 'default', timeout=None)"
    )
    assert run_launch(tmp_path, then) == "default made with None"


@pytest.mark.parametrize("make_group", ["", "def _new_process_group_helper(size, name): pass"])
def test_a_torch_that_makes_groups_otherwise_is_refused(tmp_path: Path, make_group: str) -> None:
    failure = run_launch(tmp_path, "", make_group=make_group)
    assert failure.startswith("1 ") and "would end the server" in failure
    assert "Fix: install sglang==0.5.23" in failure.splitlines()[-1]


AS_SGLANG = """
import os, torch, torch.distributed as dist
from datetime import timedelta
from torch.distributed import distributed_c10d

class Gloo(dist.ProcessGroupGloo):
    def __init__(self, *arguments, **named):
        print("made with", os.environ.get("TORCH_NCCL_BLOCKING_WAIT"), flush=True)
        super().__init__(*arguments, **named)

def init_custom_process_group(port, rank, group_name):
    from torch.distributed.distributed_c10d import _new_process_group_helper
    timeout = timedelta(seconds=60)
    store = dist.TCPStore("127.0.0.1", port, 2, timeout=timeout)
    group, _ = _new_process_group_helper(
        2, rank, [], dist.Backend("gloo"), dist.PrefixStore(group_name, store),
        group_name=group_name, backend_options=None, timeout=timeout, device_id=None,
    )
    distributed_c10d._world.pg_group_ranks[group] = {0: 0, 1: 1}
    return group

distributed_c10d.ProcessGroupGloo = Gloo
group = init_custom_process_group(PORT, 1, NAME)
print("joined, then", os.environ.get("TORCH_NCCL_BLOCKING_WAIT"), flush=True)
bucket = torch.zeros(2)
dist.broadcast(bucket, src=0, group=group)
print(bucket.tolist(), flush=True)
os._exit(0)  # at the interpreter's end torch's threads now and then abort
"""


@pytest.mark.skipif(sys.platform != "linux", reason="gloo's interface is named")
def test_its_push_groups_are_joined_as_the_learner_joins_them(tmp_path: Path) -> None:
    """What SGLang 0.5.23 does, in a process of its own, against the learner's side."""
    group = PushGroup(f"{PREFIX}as-sglang", "127.0.0.1", 2, "gloo", 60.0)  # the other imports torch
    then = AS_SGLANG.replace("PORT", str(group.port)).replace("NAME", repr(group.name))
    with ThreadPoolExecutor(1) as thread:
        server = thread.submit(run_launch, tmp_path, then, has_torch=True, GLOO_SOCKET_IFNAME="lo")
        group.join()
        group.broadcast(torch.tensor([3.0, 4.0]))
        assert server.result().splitlines() == ["made with 1", "joined, then None", "[3.0, 4.0]"]
    group.close()


@pytest.mark.parametrize(("before", "within"), [(0o000, "0o22"), (0o022, "0o22"), (0o077, "0o77")])
def test_others_cannot_write_to_its_sockets(tmp_path: Path, before: int, within: str) -> None:
    then = "import os; print(oct(os.umask(0)))"
    old = os.umask(before)
    try:
        assert run_launch(tmp_path, then) == within
    finally:
        os.umask(old)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot tell")
def test_a_server_whose_parent_is_gone_does_not_start(tmp_path: Path) -> None:
    then = "print('started')"
    assert run_launch(tmp_path / "a", then, VISION_OPD_PARENT_PID=str(os.getpid())) == "started"
    assert run_launch(tmp_path / "b", then, VISION_OPD_PARENT_PID="1").startswith("1")


# The log of a starting engine.


def test_the_log_tells_what_a_starting_engine_does(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("[2026-01-01 10:00:00] an engine before this one\n")
    log = EngineLog(path)
    assert (log.doing(), log.tail()) == ("importing its packages", "(no log)")
    with path.open("a") as file:
        file.write("gguf.py:76: UserWarning: noise\n")
        file.flush()
        assert log.doing() == "gguf.py:76: UserWarning: noise"
        file.write("[2026-01-01 10:00:07 TP0] Load weight begin. avail mem=70.00 GB\n  warn(\n")
        file.flush()
        assert log.doing() == "Load weight begin. avail mem=70.00 GB"
        file.write(
            "shards:  50% | 1/2 [00:01<00:01, 1.00it/s]\rshards: 100% | 2/2 [00:02, 1.00it/s]"
        )
    assert log.doing() == "shards: 100% | 2/2 [00:02, 1.00it/s]"
    assert "before this one" not in log.tail()


async def started(tmp_path: Path, program: str, url: str = "http://127.0.0.1:9") -> EngineProcess:
    log = EngineLog(tmp_path / "log")
    command = (sys.executable, "-u", "-c", program)
    kept = RotatingLog(log.path, 2**20, 2)
    process, output = await spawn_logged(command, kept, start_new_session=True)
    return EngineProcess(process, url, log, output)


async def test_an_engine_is_up_after_refusals_and_503(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(engine_process, "_PROGRESS_S", 0.1)
    monkeypatch.setattr(engine_process, "_WARM_UP_PROBE_S", 0.3)
    statuses = iter([503, 503, 200])
    port = engine_process.free_port("127.0.0.1")
    engine = await started(tmp_path, "import time; time.sleep(60)", f"http://127.0.0.1:{port}")
    waiting = asyncio.ensure_future(engine.wait_until_healthy(30, asyncio.Event()))
    await asyncio.sleep(0.5)
    application = web.Application()
    application.router.add_get("/health", answer_with(statuses))
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        await waiting
    finally:
        await runner.cleanup()
        await engine.stop()
    assert next(statuses, None) is None
    assert any("importing its packages" in record.getMessage() for record in caplog.records)


def answer_with(statuses: Iterator[int]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def health(_: web.Request) -> web.Response:
        return web.Response(status=next(statuses))

    return health


async def test_a_death_while_starting_ends_with_the_log(tmp_path: Path) -> None:
    engine = await started(tmp_path, "print('out of memory'); raise SystemExit(3)")
    with pytest.raises(EngineError, match=r"(?s)died \(exit code 3\).*ends:\nout of memory"):
        await engine.wait_until_healthy(30, asyncio.Event())


async def test_stop_ends_what_the_engine_has_started(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, signal, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal, time; '\n"
        "    'signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)'])\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    engine = await started(tmp_path, program)
    log = tmp_path / "log"
    while not log.exists() or not log.read_text().endswith("\n"):
        await asyncio.sleep(0.05)
    child = int((tmp_path / "log").read_text())
    await engine.stop()
    for _ in range(100):
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(child)], capture_output=True).stdout
        if not state.strip() or state.startswith(b"Z"):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"process {child} outlived its engine")


def test_no_visible_device_means_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    executable(tmp_path / "nvidia-smi", "#!/bin/sh\necho NVIDIA H100, 81559 MiB, 580.65.06\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    for visible, expected in (("", False), ("-1", False), ("0", True), ("GPU-5a", True)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert command.has_gpu() is expected


def test_an_nvidia_smi_that_hangs_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    executable(tmp_path / "nvidia-smi", f"#!/bin/sh\nexec {shutil.which('sleep')} 100\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus, "_PATIENCE_S", 0.2)
    told = r"nvidia-smi does not answer within 0\.2 s\. Fix: repair .*or set CUDA_VISIBLE_DEVICES"
    with pytest.raises(ConfigError, match=told):
        command.has_gpu()


def executable(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def test_sglang_asks_no_proxy_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "site.example")
    monkeypatch.setenv("TMPDIR", "/scratch/" + "long" * 30)
    environment = engine_environment(sglang_config(rollout={"host": "127.0.0.5"}))
    expected = "site.example,localhost,127.0.0.1,::1,0.0.0.0,127.0.0.5"
    assert environment["no_proxy"] == environment["NO_PROXY"] == expected
    assert environment["TMPDIR"] == "/tmp"  # its sockets would have too long a path


SERVER = """
import http.server, sys
class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
try:
    http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), Healthy).serve_forever()
except OSError as error:
    sys.exit(f"[Errno {error.errno}] error while attempting to bind: {error.strerror}")
"""


@pytest.mark.parametrize("is_named", [False, True])
async def test_a_port_that_was_taken_meanwhile_is_replaced(
    is_named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the configuration names it."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        ports = iter([taken, engine_process.free_port("127.0.0.1")])
        monkeypatch.setattr(engine_process, "free_port", lambda host: next(ports))
        monkeypatch.setattr(
            engine_process,
            "engine_command",
            lambda config, host, port: [sys.executable, "-c", SERVER, host, str(port)],
        )
        config = build({"rollout": {"engine": "embedded", "port": taken if is_named else 0}})
        if is_named:
            with pytest.raises(EngineError, match=r"(?i)address already in use"):
                async with engine_process.started_engine(config, 0, tmp_path, asyncio.Event()):
                    pass
            return
        async with engine_process.started_engine(config, 0, tmp_path, asyncio.Event()) as engine:
            assert not engine.url.endswith(f":{taken}")
        assert next(ports, None) is None
