#!/usr/bin/env python3
"""What do loading and saving cost a rank, beside the commit that did both through whole models?

    .venv/bin/python tests/bench/loading.py [--megabytes 1000] [--ranks 4] [--json FILE]

A Qwen3-VL of random float32 weights, its files in the page cache; gloo ranks on the CPU, a thread
each, of the commit (`git archive`, a temporary folder) and of this working tree in turn. A process
that has imported everything forks them, new ones to resume:

    start    student and teacher from the model's folder, and the optimizer, up to the first step
    save     a step with drawn gradients, then a checkpoint, until it is on the disk; with --beside
             the next step follows at once, so that what is not written by then is copied
    resume   the same as start, from the checkpoint

Memory is how far a rank's grew at most over what it was after all imports; the greatest of the
ranks. It is measured in two ways:

    resident     VmHWM of /proc/PID/status, begun anew with each phase: with the pages of mapped
                 files, which are the page cache's and shared by the ranks
    anonymous    RssAnon, looked at every 10 ms from outside: without them

Seconds begin after imports and the meeting of the ranks, and are the slowest rank's. CPU seconds
are all ranks' together: they tell more where other processes use the cores.

The ratios (`RATIOS`) are ours over theirs, the worst of the phases. A resumed rank of 4 ends with
its share of weights, teacher and both moments, as much as one whole model: `resume` does not come
down to the goal for memory.
"""

import argparse
import importlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = os.environ.get("LOADING_BENCH_TREE", str(ROOT))

BASE = "5a52a04"
SIDES = ("theirs", "ours")
PHASES = ("start", "save", "resume")
STARTS = ("start", "resume")
RATIOS = {  # by JSON key: of which figure, in which phases, and the goal
    "load_memory_ratio": ("resident_mib", PHASES, "<= 0.35"),
    "load_anonymous_memory_ratio": ("anonymous_mib", PHASES, "none"),
    "first_step_ratio": ("seconds", STARTS, "<= 0.50"),
    "first_step_cpu_ratio": ("cpu_seconds", STARTS, "none"),
}
Figures = dict[str, dict[str, float]]  # of one side: by phase, seconds and MiB
Measured = dict[str, Figures]  # by side
_LOOK_S = 0.01
_LIMIT_S = 1200.0
_MIB = 2**20


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    if options.folder is not None:
        return side_main(options)
    with tempfile.TemporaryDirectory(prefix="loading-") as name:
        measured = measure(Path(name), options)
    found = summarize(measured)
    show(measured, found)
    if options.json is not None:
        options.json.write_text(json.dumps(found | {"measured": measured}, indent=1) + "\n")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--megabytes", type=int, default=1000, help="of the model (default 1000)")
    parser.add_argument("--ranks", type=int, default=4, help="default 4")
    parser.add_argument("--last", choices=PHASES, default="resume", help="phase (default resume)")
    parser.add_argument("--repeats", type=int, default=1, help="of both sides: medians (default 1)")
    parser.add_argument("--beside", action="store_true", help="a step begins while it is saved")
    parser.add_argument("--base", default=BASE, help=f"the other commit (default {BASE})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


# ---- the two sides -------------------------------------------------------------------------------
def measure(folder: Path, options: argparse.Namespace) -> Measured:
    """Run both sides in turn, `--repeats` times."""
    trees = {"theirs": folder / "theirs", "ours": ROOT}
    check_out(options.base, trees["theirs"])
    model = make_model(folder / "model", options.megabytes)
    found: dict[str, list[Figures]] = {side: [] for side in SIDES}
    for _ in range(options.repeats):
        for side in SIDES:
            run = folder / f"run-{side}"
            run.mkdir()
            found[side].append(run_side(run, trees[side], model, options))
            shutil.rmtree(run)
    return {side: medians(repeats) for side, repeats in found.items()}


def medians(repeats: list[Figures]) -> Figures:
    return {
        phase: {key: statistics.median(r[phase][key] for r in repeats) for key in values}
        for phase, values in repeats[0].items()
    }


def check_out(commit: str, folder: Path) -> None:
    folder.mkdir()
    archive = subprocess.run(
        ["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)


def make_model(folder: Path, megabytes: int) -> Path:
    """The tests' Qwen3-VL with wider and more layers, of about so many 10^6 bytes."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from tests.tiny_model import make_tiny_checkpoint

    make_tiny_checkpoint(folder)
    config = AutoConfig.from_pretrained(folder)
    width = 1024 if megabytes >= 500 else 256
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.head_dim = width, 4 * width, 64
    text.num_attention_heads = text.num_key_value_heads = width // 64
    text.vocab_size = 16 * width
    text.rope_parameters["mrope_section"] = [12, 10, 10]
    layer_bytes = 4 * 16 * width**2
    text.num_hidden_layers = max(1, round((1e6 * megabytes - 64 * width**2) / layer_bytes))
    config.vision_config.out_hidden_size = width
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    return folder


# ---- processes, looked at from outside -----------------------------------------------------------
def run_side(run: Path, tree: Path, model: Path, options: argparse.Namespace) -> Figures:
    command = [sys.executable, str(Path(__file__).resolve()), "--ranks", str(options.ranks)]
    command += ["--last", options.last]
    command += ["--folder", str(run), "--model", str(model)]
    command += ["--beside"] if options.beside else []
    tree_first = {"LOADING_BENCH_TREE": str(tree), "PYTHONPATH": str(tree)}
    environment = {**os.environ, **tree_first, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, cwd=run)
    try:
        peaks = watch(process, run, options.ranks)
    finally:
        process.kill()
        process.wait()
    return figures(run, peaks, options)


def watch(process: subprocess.Popen[bytes], run: Path, ranks: int) -> dict[tuple[str, int], int]:
    """The greatest RssAnon of each rank in each phase, bytes; until all have ended."""
    peaks: dict[tuple[str, int], int] = {}
    deadline = time.monotonic() + _LIMIT_S
    while process.poll() is None:
        assert time.monotonic() < deadline, f"the ranks are not done after {_LIMIT_S:g} s"
        for rank in range(ranks):
            phase, _, pid = text_of(run / f"now.{rank}").partition(" ")
            if pid:
                found = memory(pid).get("RssAnon", 0)
                peaks[phase, rank] = max(peaks.get((phase, rank), 0), found)
        time.sleep(_LOOK_S)
    assert process.returncode == 0, "a rank failed"
    return peaks


def figures(run: Path, peaks: dict[tuple[str, int], int], options: argparse.Namespace) -> Figures:
    found: Figures = {}
    ranks = range(options.ranks)
    for phase in phases(options):
        notes = [json.loads((run / f"notes.{phase}.{rank}").read_text()) for rank in ranks]
        resident = [note["VmHWM"] - note["imported"]["VmRSS"] for note in notes]
        anonymous = [peaks[phase, r] - notes[r]["imported"]["RssAnon"] for r in ranks]
        found[phase] = {
            "seconds": max(note["seconds"] for note in notes),
            "cpu_seconds": sum(note["cpu_seconds"] for note in notes),
            "resident_mib": max(resident) / _MIB,
            "anonymous_mib": max(anonymous) / _MIB,
        }
    return found


def phases(options: argparse.Namespace) -> tuple[str, ...]:
    return PHASES[: PHASES.index(options.last) + 1]


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def memory(pid: int | str) -> dict[str, int]:
    """Bytes by name; nothing of a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if line.endswith(" kB"))
    return {name: 1024 * int(value.split()[0]) for name, value in pairs}


# ---- a rank --------------------------------------------------------------------------------------
class Notes:
    """A rank's notes: tell the phase to the process that watches, and keep what it took."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder, self._rank = folder, rank
        self._imported = memory("self")
        self._began = self._cpu_began = 0.0

    def begin(self, phase: str) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        self._tell(f"{phase} {os.getpid()}")
        self._began, self._cpu_began = time.monotonic(), time.process_time()

    def end(self, phase: str) -> None:
        spent = {
            "seconds": time.monotonic() - self._began,
            "cpu_seconds": time.process_time() - self._cpu_began,
        }
        self._tell("")
        found = {**spent, "VmHWM": memory("self")["VmHWM"], "imported": self._imported}
        (self._folder / f"notes.{phase}.{self._rank}").write_text(json.dumps(found))

    def _tell(self, now: str) -> None:
        (self._folder / f"now.{self._rank}").write_text(now)


def side_main(options: argparse.Namespace) -> int:
    """Run the ranks with either tree's packages. Returns 1 if a rank failed."""
    import torch

    import learner.assembly  # noqa: F401
    from common.config import RunConfig
    from common.rendering import Renderer

    # Loaded when it is first needed otherwise, and after what must come before transformers.
    importlib.import_module("transformers.models.qwen3_vl.modeling_qwen3_vl")
    torch.set_num_threads(1)
    tree = {"run": {"folder": options.folder}}
    config = RunConfig.model_validate(
        {**tree, "model": {"path": str(options.model), "dtype": "float32"}}
    )
    renderer = Renderer(config.model.path)
    has_failed = 0
    for phase in STARTS if options.last == "resume" else ("start",):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        shared = (port, phase, config, renderer, options)
        started = [fork_rank(rank, *shared) for rank in range(options.ranks)]
        has_failed |= any([os.waitpid(pid, 0)[1] for pid in started])
    return int(has_failed)


def fork_rank(rank: int, port: int, phase: str, *others: Any) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ["WORLD_SIZE"] = str(others[-1].ranks)
        rank_main(phase, *others)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def rank_main(phase: str, config: Any, renderer: Any, options: argparse.Namespace) -> None:
    import learner.assembly as assembly

    try:
        from learner.ranks import init_ranks
    except ImportError:  # a build from before that file
        from learner.model.ranks import init_ranks

    ranks = init_ranks(600.0)
    meet(ranks)
    notes = Notes(options.folder, ranks.rank)
    notes.begin(phase)
    trained = load(assembly, config, ranks)
    meet(ranks)
    notes.end(phase)
    if phase == "start" and options.last != "start":
        step(trained)
        notes.begin("save")
        save(trained, renderer, config, options)
        notes.end("save")
    meet(ranks)
    ranks.close()


def meet(ranks: Any) -> None:
    import torch.distributed as dist

    if ranks.group is not None:
        dist.barrier(ranks.group)


def load(assembly: Any, config: Any, ranks: Any) -> SimpleNamespace:
    """What `assembly._run_once` loads before the first step."""
    from learner.optim import Optimizer

    folder = config.run.folder / "checkpoints"
    if hasattr(assembly, "load_models"):
        checkpoint = assembly.find_checkpoint(folder, config, ranks)
        load_models = assembly.load_models
    else:
        checkpoint = assembly.find_checkpoint(folder, config)
        load_models = assembly._models
    model, teacher = load_models(config, ranks, 0 if checkpoint is None else checkpoint.version)
    optimizer = Optimizer(model.named_parameters(), config.optimizer, 100)
    trained = SimpleNamespace(
        model=model, teacher=teacher, optimizer=optimizer, version=0, ranks=ranks
    )
    if checkpoint is not None:
        assembly.restore(checkpoint, trained)
    return trained


def step(trained: SimpleNamespace) -> None:
    import torch

    for parameter in trained.model.parameters():
        parameter.grad = torch.full_like(parameter, 0.01)
    trained.version += 1
    trained.optimizer.step(trained.version)
    trained.teacher.update(trained.version)


def save(trained: Any, renderer: Any, config: Any, options: argparse.Namespace) -> None:
    from learner.checkpoint import Checkpointer

    folder = config.run.folder / "checkpoints"
    version, trained.version = trained.version, 0
    with Checkpointer(folder, trained, renderer, config, lambda *_: None) as saver:
        trained.version = version
        saver.save()
        if options.beside:
            step(trained)


# ---- figures -------------------------------------------------------------------------------------
def summarize(measured: Measured) -> dict[str, Any]:
    theirs, ours = (measured[side] for side in SIDES)

    def ratios(key: str) -> dict[str, float]:
        return {phase: ours[phase][key] / theirs[phase][key] for phase in ours}

    by_figure = {key: ratios(key) for key in ours["start"]}
    worst = {
        name: max(by_figure[figure][phase] for phase in phases if phase in ours)
        for name, (figure, phases, _) in RATIOS.items()
    }
    return {
        **worst,
        "ratios": by_figure,
        "ratio_of": {name: of for name, (of, *_) in RATIOS.items()},
    }


def show(measured: Measured, found: dict[str, Any]) -> None:
    for side, by_phase in measured.items():
        for phase, values in by_phase.items():
            print(f"{side:7}{phase:8}{values['resident_mib']:8.0f} MiB resident"
                  f"{values['anonymous_mib']:8.0f} MiB anonymous{values['seconds']:8.2f} s"
                  f"{values['cpu_seconds']:8.2f} CPU s")  # fmt: skip
    for name, (figure, _, goal) in RATIOS.items():
        each = ", ".join(f"{phase} {ratio:.2f}" for phase, ratio in found["ratios"][figure].items())
        print(f"{name} {found[name]:.3f}  ({figure}: {each}; goal {goal})")


if __name__ == "__main__":
    raise SystemExit(main())
