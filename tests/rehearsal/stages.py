"""The stages of a rehearsal, one function each. What they see goes into the report."""

import importlib.metadata
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import RunConfig
from common.dataset import read_samples
from common.engines.sglang import find_python
from common.prepare.published_form import FILE
from common.types import Sample
from common.versions import versions
from rollout.engine_process import free_port
from tests.rehearsal import evidence
from tests.rehearsal.processes import Command, RehearsalError, run, running
from tests.rehearsal.report import Report
from tests.rehearsal.settings import ROOT

# Mean |rollout - learner| of a step's log-probs, both sides in bfloat16. Rounding alone makes 0.017
# to 0.021 with the tiny checkpoint (transformers in bfloat16 differs from itself in float32 by
# 0.018), another picture makes 0.5.
LOGPROB_BOUND_NATS = 0.06
KILL_AFTER_STEP = 3
ANSWER_TOKENS = 24
TAIL_CHARACTERS = 60
_THINK = "<think>"


@dataclass(frozen=True)
class Plan:
    """Where everything is, and what is run."""

    out: Path
    model: str
    dataset: Path
    config: RunConfig
    arguments: list[str]  # of the launcher
    patience_s: float

    @property
    def run_folder(self) -> Path:
        assert self.config.run.folder is not None
        return self.config.run.folder

    @property
    def pixel_log(self) -> Path:
        return self.out / "engine_pixels.jsonl"

    @property
    def exported(self) -> Path:
        return self.out / "exported"

    @property
    def num_steps(self) -> int:
        assert self.config.learner.max_steps is not None
        return self.config.learner.max_steps


# ---- material ------------------------------------------------------------------------------------
def make_checkpoint(folder: Path) -> str:
    from tests.rehearsal.checkpoint import make_checkpoint as make

    return f"{len(list(make(folder).iterdir()))} files in {folder}"


def make_photographs(folder: Path) -> str:
    from tests.rehearsal.photographs import make_published_folder

    make_published_folder(folder)
    lines = (folder / FILE).read_text(encoding="utf-8").splitlines()
    return f"{len(lines)} rows in {folder / FILE}"


def convert(source: Path, dataset: Path, patience_s: float, report: Report) -> str:
    words = ("-m", "common.prepare", "vision-opd-6k", "--from", source, "--out", dataset.parent)
    said = run([sys.executable, *words], dataset.parent.parent / "convert.log", patience_s)
    left_out = (dataset.parent / "left_out.txt").read_text(encoding="utf-8").splitlines()
    report.refused += [f"by the converter: {line}" for line in left_out]
    return said.splitlines()[-1]


# ---- training ------------------------------------------------------------------------------------
def train(plan: Plan, report: Report) -> str:
    """Launch, kill the learner in the middle, and let the launcher bring the run to its end."""
    words = [ROOT / "deploy" / "launch_cluster.sh", *plan.arguments]
    environment = {"VISION_OPD_PIXEL_LOG": str(plan.pixel_log)}
    with running(words, plan.out / "launch.log", environment) as launcher:
        pid = _kill_learner(plan, launcher)
        code = launcher.wait(plan.patience_s)
    report.check("the launcher ended well", code == 0, f"exit code {code}")
    return f"learner-0 (process {pid}) was killed, exit code {code}"


def _kill_learner(plan: Plan, launcher: Command) -> int:
    def has_come_far() -> bool:
        far = evidence.last_step(plan.run_folder) >= min(KILL_AFTER_STEP, plan.num_steps - 1)
        return far and bool(evidence.checkpoints(plan.run_folder))

    launcher.wait_until(has_come_far, f"a checkpoint and step {KILL_AFTER_STEP}", plan.patience_s)
    pid: int = evidence.process_entry(plan.run_folder, "learner-0")["pid"]
    os.kill(pid, signal.SIGKILL)
    return pid


def read_run(plan: Plan, report: Report) -> None:
    """What the run left behind, however it ended."""
    folder = plan.run_folder
    report.steps = evidence.step_rows(folder)
    report.probes = evidence.probe_differences(folder)
    report.refused += evidence.refusals(folder)


def check_run(plan: Plan, report: Report) -> None:
    folder = plan.run_folder
    trained = [int(row["step"]) for row in report.steps]
    expected = list(range(1, plan.num_steps + 1))
    report.check("every step was trained, once", trained == expected, trained)
    ends = [end["why"] for end in evidence.process_entry(folder, "learner-0")["ends"]]
    report.check("the learner was killed once and came back", len(ends) == 1, ends)
    samples, report.weight_versions = evidence.generated(folder, plan.dataset)
    report.check(
        "rollouts came from the pushed weights",
        set(report.weight_versions) >= set(range(plan.num_steps)),
        report.weight_versions,
    )
    report.verified_versions = evidence.verified_versions(folder)
    report.check(
        "every push was verified",
        set(report.verified_versions) >= set(range(plan.num_steps)),
        f"versions {report.verified_versions}, {len(report.probes)} probes agree",
    )
    _check_logprobs(plan, report)
    _check_prompt(plan, samples[0], report)
    _check_pixels(plan, samples, report)


def _check_logprobs(plan: Plan, report: Report) -> None:
    key = "drift/mean_nats"
    means = [row[key] for row in report.steps if key in row]
    report.check(
        "log-probs of rollout and learner agree",
        len(means) == len(report.steps) > 0 and max(means) <= LOGPROB_BOUND_NATS,
        f"largest mean of a step: {max(means, default=math.nan):.4g} nats, "
        f"allowed {LOGPROB_BOUND_NATS}",
    )
    worst = [row.get("learner/mismatch_kl_worst_nats", math.inf) for row in report.steps]
    bound = plan.config.health.sample_mismatch_kl_nats
    report.check(
        "no sample stands out",
        bound is None or max(worst, default=math.inf) <= bound,
        f"largest KL of a sample: {max(worst, default=math.inf):.4g} nats, allowed {bound}",
    )
    refused = sum(row.get("learner/refused_groups", 0) for row in report.steps)
    report.check("the learner refused no group", refused == 0, f"{refused:g} refused")


def _check_prompt(plan: Plan, sample: Sample, report: Report) -> None:
    report.prompt_tail = renderer(plan.model, plan.config).text(sample.problem)[-TAIL_CHARACTERS:]
    thinks = report.prompt_tail.rstrip().endswith(_THINK)
    said = f"it ends in {report.prompt_tail[-25:]!r}"
    report.check("the prompt does not ask for thinking", not thinks, said)


def _check_pixels(plan: Plan, samples: list[Sample], report: Report) -> None:
    """Whatever the learner shows its model of a sample, the live engine has shown its own."""
    seen = evidence.engine_pixels(plan.pixel_log)
    for sample in samples:
        digest = learner_pixels(plan, sample)
        row = {"sample_id": sample.sample_id, "learner": digest}
        report.pixels.append({**row, "engine": digest if digest in seen else None})
    strange = [row["sample_id"] for row in report.pixels if row["engine"] is None]
    same = len(report.pixels) - len(strange)
    said = f"{same} of {len(report.pixels)} pictures have the same pixels on both sides"
    report.check("engine and learner see the same pixels", same > 0 and not strange, said)


def learner_pixels(plan: Plan, sample: Sample) -> str:
    """Digest of the pixels that the student is shown."""
    from common.images import ImageStore
    from tests.plain_pixels import pixel_digest, plain_pixel_values

    picture = ImageStore(plan.dataset.parent).open(sample.image)
    ours = renderer(plan.model, plan.config)
    return pixel_digest(plain_pixel_values(ours, ours.prompt(sample.problem, picture)))


# ---- the product ---------------------------------------------------------------------------------
def export(plan: Plan) -> str:
    (*_, newest) = evidence.checkpoints(plan.run_folder)
    words = [sys.executable, "-m", "learner.export", newest, plan.exported]
    return run(words, plan.out / "export.log", plan.patience_s).splitlines()[-1]


def check_template(plan: Plan, report: Report) -> None:
    """Whoever serves the export with defaults passes nothing to its template."""
    from transformers import AutoProcessor

    sample = _asked(plan)
    _, _, question = sample.problem.partition("<image>")
    parts = [{"type": "image"}, {"type": "text", "text": question}]
    rendered = AutoProcessor.from_pretrained(plan.exported).apply_chat_template(
        [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
    )
    is_trained = rendered == renderer(plan.model, plan.config).text(sample.problem)
    said = f"it ends in {rendered[-25:]!r}"
    report.check("the export's template makes the trained prompt by itself", is_trained, said)


def serve_and_ask(plan: Plan, report: Report) -> str:
    port = free_port("127.0.0.1")
    words = [sys.executable, "-m", "rollout.serve", plan.exported, "--port", port]
    words += ["--run.folder", plan.out / "serve", *_sglang_sizes(plan.config)]
    with running(words, plan.out / "serve.log") as server:
        server.wait_until(lambda: "is served at" in server.output(), "served", plan.patience_s)
        report.answer = _ask(plan, f"http://127.0.0.1:{port}")
        code = server.stop()
    report.check("the server ended well", code == 0, f"exit code {code}")
    _check_answer(plan, report)
    return f"{report.answer['completion_tokens']} tokens"


def _sglang_sizes(config: RunConfig) -> list[object]:
    """What the run gave SGLang to fit this machine."""
    sizes = {
        "--sglang.context_tokens": config.sglang.context_tokens,
        "--sglang.max_total_tokens": config.sglang.max_total_tokens,
        "--sglang.tensor_parallel": config.sglang.tensor_parallel,
        "--sglang.memory_fraction": config.sglang.memory_fraction,
    }
    return [word for pair in sizes.items() if pair[1] is not None for word in pair]


def _ask(plan: Plan, url: str) -> dict[str, Any]:
    sample = _asked(plan)
    picture = plan.dataset.parent / sample.image.path
    _, _, question = sample.problem.partition("<image>")  # as trained: the picture comes first
    client = ROOT / "tests" / "rehearsal" / "ask.py"
    key_file = plan.out / "serve" / "keys" / "engine-0.token"
    words = [find_python(plan.config), client, url, key_file, plan.exported.name, picture, question]
    said = run([*words, ANSWER_TOKENS], plan.out / "ask.log", plan.patience_s)
    answer: dict[str, Any] = json.loads(said.splitlines()[-1])
    return {"question": question, "picture": str(picture), **answer}


def _check_answer(plan: Plan, report: Report) -> None:
    """By the number of its prompt's tokens: a prompt that asks for thinking has others."""
    from common.images import ImageStore

    sample = _asked(plan)
    picture = ImageStore(plan.dataset.parent).open(sample.image)
    prompt = renderer(plan.model, plan.config).prompt(sample.problem, picture)
    asked, trained = report.answer["prompt_tokens"], len(prompt.input_ids)
    said = f"{asked} tokens were asked, {trained} are trained"
    report.check("the served prompt is the trained one", asked == trained, said)
    # Random weights may write any token, <think> too: what counts is what the server makes of it.
    thought = report.answer["reasoning"]
    report.check("the server takes no part of the answer for thinking", not thought, repr(thought))


def _asked(plan: Plan) -> Sample:
    samples, _ = read_samples(plan.dataset)
    jpegs = [s for s in samples if Path(s.image.path).suffix in (".jpg", ".jpeg")]
    if not jpegs:
        raise RehearsalError(f"{plan.dataset}: no row has a JPEG to ask about")
    return jpegs[0]


# ---- shared --------------------------------------------------------------------------------------
def renderer(model: str, config: RunConfig) -> Any:
    """The renderer that the learner makes."""
    from common.rendering import Renderer

    return Renderer(model, config.prompt)


def package_versions(config: RunConfig) -> dict[str, str]:
    """Versions of our packages, and of those in SGLang's environment."""
    code = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({n: m.version(n) for n in ('sglang', 'torch', 'transformers')}))"
    )
    told = subprocess.run(
        [find_python(config), "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    sglang = {f"{name} (of SGLang)": version for name, version in json.loads(told).items()}
    ours = {name: importlib.metadata.version(name) for name in ("vision-opd-async", "torch")}
    return {**ours, **versions(), **sglang}
