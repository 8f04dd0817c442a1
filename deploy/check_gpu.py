"""What this machine's GPU does with our kernels: python -m deploy.check_gpu [options]

    --out FOLDER   for check.json and check.html (default: check-gpu)
    --small        sizes for a CPU; without a GPU always
    --budget S     seconds in all (default 480)

Versions; the hot path on an imagined GPU, which it must neither leave nor wait for; each kernel
against float32, forward and gradients; a whole step in the shapes of
Qwen3.5-4B with random weights, beside the published way; weights sent to a second process; a few
faults. Nothing is downloaded. It ends with 1 if something is wrong, and names it.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from common.files import replace_json, replace_text
from common.gpus import usable_gpus
from common.output import ends_with_its_reader
from common.page import page, table, tile
from deploy.cluster.process_specs import ROOT
from deploy.exit_codes import ExitCode
from deploy.planning.devices import gpu
from deploy.planning.shape import KNOWN, ModelShape
from learner.checking.findings import Finding, read
from learner.checking.lengths import PUBLISHED

PARTS = ("versions", "plan", "kernels", "faults", "push", "step")  # quick ones come first
SPEEDUP_GOAL = 4.0  # tokens/s over the published way
MFU_GOAL = 0.35  # share of peak operations
MODEL = "Qwen3.5-4B"


@dataclass(frozen=True)
class Check:
    """All that was found."""

    findings: tuple[Finding, ...]
    device: str
    seconds: float

    @property
    def failed(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.outcome == "failed")

    def figures(self, part: str, name: str) -> Mapping[str, Any]:
        """The figures of one check; empty means that it was not measured."""
        found = (f.figures for f in self.findings if (f.part, f.name) == (part, name))
        return next(found, {})

    @property
    def speedup(self) -> float | None:
        speedup: float | None = self.figures("step", "published way").get("speedup")
        return speedup

    @property
    def mfu(self) -> float | None:
        """Model operations a second over the device's peak; None means no GPU, or an unknown one.

        What is computed again for the backward pass is not counted.
        """
        ours = self.figures("step", "ours")
        if not ours or self.device == "CPU":
            return None
        shape = replace(KNOWN[MODEL], layers=ours["layers"], full_layers=ours["layers"] // 4)
        operations = ours["groups"] * group_operations(shape, ours["responses_a_group"])
        try:
            peak = gpu(self.device).operations
        except ConfigError:
            return None
        return float(operations / ours["seconds"] / peak)


def group_operations(shape: ModelShape, responses: int) -> float:
    """Operations of a group's step: student forward and, twice that, backward; teacher; head."""
    lengths = PUBLISHED

    def forward(image: int) -> float:
        prompt = image + lengths.text
        inside = shape.tree_operations(prompt, responses, lengths.response)
        return shape.tower.operations(image) + inside

    objective = shape.objective_operations(responses * lengths.response)
    return 3 * forward(lengths.image) + forward(lengths.crop) + objective


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.check_gpu", allow_abbrev=False,
        description="What this machine's GPU does with our kernels.",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("check-gpu"),
                        help="folder for the results (default: check-gpu)")  # fmt: skip
    parser.add_argument("--small", action="store_true", help="small sizes; on a CPU always")
    parser.add_argument("--budget", type=float, default=480.0, metavar="S",
                        help="seconds in all (default 480)")  # fmt: skip
    parser.add_argument("--threads", type=int, help="of the CPU (default: all)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART",
                        help=f"of {', '.join(PARTS)}")  # fmt: skip
    options = parser.parse_args(argv)
    check = run(options)
    options.out.mkdir(parents=True, exist_ok=True)
    replace_json(options.out / "check.json", document(check))
    replace_text(options.out / "check.html", html(check))
    print(f"\n{verdict(check)}\n{options.out / 'check.html'}")
    raise SystemExit(ExitCode.FAILED if check.failed else ExitCode.TRAINED)


# ---- running -------------------------------------------------------------------------------------
def run(options: argparse.Namespace) -> Check:
    """A process a part, one after the other; one that fails or is late ends nothing but itself."""
    gpus = usable_gpus()
    device = gpus[0].model if gpus else "CPU"
    print(f"{device}: {', '.join(options.only)}")
    began = time.monotonic()
    found: list[Finding] = []
    for part in options.only:
        left_s = options.budget - (time.monotonic() - began)
        for finding in run_part(part, bool(gpus), options, left_s):
            print(line(finding), flush=True)
            found.append(finding)
    return Check(tuple(found), device, time.monotonic() - began)


def run_part(part: str, is_gpu: bool, options: argparse.Namespace, left_s: float) -> list[Finding]:
    """What a part has found, and that it did not come to its end, if so."""
    if left_s <= 0:
        return [Finding(part, part, "skipped", remark=f"{options.budget:g} s are over (--budget)")]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "findings.jsonl"
        try:
            ended = subprocess.run(
                command(part, out, is_gpu, options), cwd=ROOT, timeout=left_s, check=False,
                capture_output=True, text=True,
            )  # fmt: skip
            problem = _last_line(ended.stderr) if ended.returncode else ""
        except subprocess.TimeoutExpired:
            problem = f"not done within {left_s:.0f} s. Fix: a larger --budget"
        found = read(out)
    return [*found, Finding(part, part, "failed", remark=problem)] if problem else found


def command(part: str, out: Path, is_gpu: bool, options: argparse.Namespace) -> list[str]:
    module = ["deploy.check_push"] if part == "push" else ["learner.checking", part]
    words = [sys.executable, "-m", *module, "--out", str(out)]
    words += ["--device", "cuda" if is_gpu else "cpu"]
    if options.small or not is_gpu:
        words.append("--small")
    return [*words, "--threads", str(options.threads)] if options.threads else words


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it ended without a word"


# ---- showing -------------------------------------------------------------------------------------
def verdict(check: Check) -> str:
    """One line that says whether all is well, and what is not."""
    if check.failed:
        return f"NOT GOOD: {', '.join(f'{f.part}: {f.name}' for f in check.failed)}"
    return f"good: {len(check.findings)} findings in {check.seconds:.0f} s"


def line(finding: Finding) -> str:
    said = finding.remark or ", ".join(f"{k} {_said(v)}" for k, v in finding.figures.items())
    return f"{finding.outcome:<8}{finding.part}: {finding.name}: {said}"


def document(check: Check) -> dict[str, Any]:
    return {
        "format": 1,
        "device": check.device,
        "seconds": check.seconds,
        "is_good": not check.failed,
        "speedup": check.speedup,
        "mfu": check.mfu,
        "goals": {"speedup": SPEEDUP_GOAL, "mfu": MFU_GOAL},
        "findings": [asdict(finding) for finding in check.findings],
    }


def html(check: Check) -> str:
    tiles = [
        tile("Device", check.device, f"{check.seconds:.0f} s"),
        tile("Checks", "good" if not check.failed else "not good", verdict(check)),
        tile("Over the published way", _said(check.speedup), f"goal {SPEEDUP_GOAL:g}"),
        tile("Share of peak", _said(check.mfu), f"goal {MFU_GOAL:g}"),
    ]
    rows = [
        [f"{f.part}: {f.name}", f.outcome, f.remark,
         "; ".join(f"{key} = {_said(value)}" for key, value in f.figures.items())]
        for f in check.findings
    ]  # fmt: skip
    found = table(["Check", "Outcome", "Remark", "Figures"], rows)
    return page("GPU check", f'<div class="tiles">{"".join(tiles)}</div>{found}')


def _said(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    with ends_with_its_reader():
        main()
