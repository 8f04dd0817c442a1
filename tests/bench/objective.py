#!/usr/bin/env python3
"""What does the objective cost, beside all logits in memory, and beside TRL's chunked divergence?

    .venv/bin/python tests/bench/objective.py [--tokens 512,1024,2048] [--threads N] [--json FILE]

Forward and backward of the Jensen-Shannon divergence, from hidden states and heads (float32),
V = 248,320, importance weights off on all sides. Over the student's top 100 tokens and the tail:

1. ours: learner.objective, which also gives the importance ratio and the entropy of each token
2. materialised: plain autograd over the whole [T, V] logits of both models, the teacher's under
   no_grad and dropped as soon as its top tokens are gathered; no figures but the loss

and over the whole vocabulary:

3. ours_whole: the same as ours
4. trl: ChunkedDivergenceFunction of TRL 1.16, which also gives the entropy of each token. Its wheel
   is fetched into .cache on the first use. It makes all logits three times; ours once

`differences` has how far losses and gradients of 2 are from 1, and of 4 from 3 (relative norms).

Each size has a child process for the memory of each side and one for time. Memory is the peak of
bytes in tensors that live, counted by a dispatch mode at every operator (on CUDA: the allocator's
peak), less inputs and less the gradients that all return. What operators hold inside them is not
counted, on any side; `peak_rss_mib`, the growth of the process's largest resident set, has it, and
the gradients. Time is taken in turn, all sides, again and again; ratios are paired by repetition.
Other processes on the same cores hurt our sides more, as they have more operators for threads to
meet at: `--threads 1` then. A size whose materialised side would not fit into the memory that is
available is measured without it; what is not measured is listed under `not_measured`.

`memory_ratio` and `time_ratio` are materialised over ours; `vs_trl_memory` and `vs_trl_time` are
ours_whole over trl, `top_k_vs_trl_*` ours over trl: of each the worst size's, of medians.
"""

import argparse
import gc
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # beside this file the packages `broker` and `rollout` would be benchmarks

from common.lifecycle import stop_with_parent  # noqa: E402
from tests.bench.figures import machine, spread  # noqa: E402
from tests.bench.trl_divergence import chunked_divergence, fetch  # noqa: E402

if TYPE_CHECKING:  # imported late at run time: the parent needs no torch
    from torch import Tensor

SIDES = ("ours", "materialised", "ours_whole", "trl")
SAME = {"materialised": "ours", "trl": "ours_whole"}  # compute the same
MIB = 2**20
MATERIALISED_COPIES = 5  # [T, V] tensors that live at once, with some room


@dataclass(frozen=True)
class Ratio:
    """One side's figure over another's."""

    above: str
    below: str
    memory: str  # its key
    time: str
    worst: Callable[..., float]


RATIOS = (
    Ratio("materialised", "ours", "memory_ratio", "time_ratio", min),
    Ratio("ours_whole", "trl", "vs_trl_memory", "vs_trl_time", max),
    Ratio("ours", "trl", "top_k_vs_trl_memory", "top_k_vs_trl_time", max),
)
GOALS = {
    "memory_ratio": ">= 20",
    "time_ratio": ">= 1",
    "vs_trl_memory": "<= 0.42",
    "vs_trl_time": "<= 0.5",
    "top_k_vs_trl_memory": "<= 0.31",
    "top_k_vs_trl_time": "<= 0.27",
}


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    if options.child:
        print(json.dumps(CHILDREN[options.child](options)))
        return 0
    print(f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, Python "
          f"{platform.python_version()}, load {os.getloadavg()[0]:.1f}\n")  # fmt: skip
    print_header()
    by_size = []
    for tokens in options.tokens:
        by_size.append(measure(options, tokens))
        print_row(by_size[-1])
        document = summarize(by_size, options)
        if options.json:
            options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print_summary(document)
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=numbers, default=[512, 1024, 2048, 4096, 8192],
                        metavar="T,...", help="(default 512,1024,2048,4096,8192)")  # fmt: skip
    parser.add_argument("--hidden", type=int, default=256, help="hidden size (default 256)")
    parser.add_argument("--vocabulary", type=int, default=248_320, help="(default 248320)")
    parser.add_argument("--top-k", type=int, default=100, help="(default 100)")
    parser.add_argument("--repeats", type=int, default=5, help="of each side (default 5)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default cpu)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1,
                        help="of torch on a CPU (default: one a core)")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    parser.add_argument("--sides", default=",".join(SIDES), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


# ---- one size, in children of this process -------------------------------------------------------
def measure(options: argparse.Namespace, tokens: int) -> dict[str, Any]:
    missing = why_missing(options, tokens)
    sides = [side for side in SIDES if side not in missing]
    memory = {side: in_child("memory", options, tokens, [side]) for side in sides}
    timed = in_child("time", options, tokens, sides)
    case: dict[str, Any] = {
        "tokens": tokens,
        "missing": missing,
        "extra_mib": {side: memory[side]["extra"] / MIB for side in sides},
        "peak_rss_mib": {side: memory[side]["rss"] / MIB for side in sides},
        "loss": {side: memory[side]["loss"] for side in sides},
        "differences": timed["differences"],
        "seconds": {side: spread(timed["seconds"][side]) for side in sides},
    }
    for ratio in RATIOS:
        if ratio.above in sides and ratio.below in sides:
            case |= ratios(case, ratio)
    return case


def why_missing(options: argparse.Namespace, tokens: int) -> dict[str, str]:
    """The sides that cannot be measured here."""
    missing = {}
    needed = MATERIALISED_COPIES * tokens * options.vocabulary * 4
    if needed >= available_bytes(options.device):
        missing["materialised"] = "it would not fit into memory"
    try:
        fetch()
    except subprocess.SubprocessError as error:
        missing["trl"] = f"its wheel cannot be fetched: {error}"
    return missing


def ratios(case: dict[str, Any], ratio: Ratio) -> dict[str, Any]:
    mib, seconds = case["extra_mib"], case["seconds"]
    pairs = zip(seconds[ratio.above]["all"], seconds[ratio.below]["all"], strict=True)
    return {
        ratio.memory: mib[ratio.above] / mib[ratio.below],
        ratio.time: spread([above / below for above, below in pairs]),
    }


def in_child(task: str, options: argparse.Namespace, tokens: int, sides: Any) -> dict[str, Any]:
    done = subprocess.run(
        [
            *(sys.executable, __file__, "--child", task, "--sides", ",".join(sides)),
            *("--tokens", str(tokens), "--hidden", str(options.hidden)),
            *("--vocabulary", str(options.vocabulary), "--top-k", str(options.top_k)),
            *("--repeats", str(options.repeats), "--device", options.device),
            *("--threads", str(options.threads)),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def available_bytes(device: str) -> int:
    if device == "cuda":
        import torch

        return torch.cuda.mem_get_info()[0]
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    (kib,) = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kib) * 1024


# ---- in a child ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Problem:
    student_hidden_TD: "Tensor"
    student_weight_VD: "Tensor"
    teacher_hidden_TD: "Tensor"
    teacher_weight_VD: "Tensor"
    token_ids_T: "Tensor"
    top_k: int

    def leaves(self) -> "list[Tensor]":
        return [self.student_hidden_TD, self.student_weight_VD]


def problem(options: argparse.Namespace) -> Problem:
    """Logits with a spread of about 3, teacher and student related: some tokens are likely."""
    import torch

    (tokens,) = options.tokens
    generator = torch.Generator(options.device).manual_seed(0)

    def normal(*shape: int) -> "Tensor":
        return torch.randn(*shape, generator=generator, device=options.device)

    hidden = 3 * normal(tokens, options.hidden) / options.hidden**0.5
    weight = normal(options.vocabulary, options.hidden)
    ids = torch.randint(options.vocabulary, (tokens,), generator=generator, device=options.device)
    return Problem(
        hidden.clone().requires_grad_(),
        weight.clone().requires_grad_(),
        hidden + 0.3 * normal(*hidden.shape) / options.hidden**0.5,
        weight,
        ids,
        options.top_k,
    )


def small_problem(options: argparse.Namespace) -> Problem:
    return problem(
        argparse.Namespace(tokens=[8], hidden=8, vocabulary=options.top_k * 8,
                           top_k=options.top_k, device=options.device)
    )  # fmt: skip


def ours(work: Problem) -> "Tensor":
    return ours_over(work, work.top_k)


def ours_whole(work: Problem) -> "Tensor":
    return ours_over(work, None)


def ours_over(work: Problem, top_k: int | None) -> "Tensor":
    import torch

    from common.config import ObjectiveSection
    from learner.objective.head import HeadInputs
    from learner.objective.loss import objective
    from learner.objective.tokens import ResponseTokens, SamplingLaw

    tokens, device = len(work.token_ids_T), work.token_ids_T.device
    result = objective(
        HeadInputs(work.student_hidden_TD, work.student_weight_VD),
        ((1.0, HeadInputs(work.teacher_hidden_TD, work.teacher_weight_VD)),),
        ResponseTokens(
            work.token_ids_T,
            torch.zeros(tokens, device=device),
            torch.full((tokens,), 1 / tokens, device=device),
        ),
        ObjectiveSection(top_k=top_k, importance_clip=None),
        SamplingLaw(1.0, torch.empty(0, dtype=torch.int64, device=device)),
    )
    torch.autograd.backward(result.loss)
    return result.loss.detach()


def materialised(work: Problem) -> "Tensor":
    import torch

    from common.config import ObjectiveSection
    from learner.objective.divergence import DIVERGENCES, bucket_logprobs

    student_TV = work.student_hidden_TD @ work.student_weight_VD.T
    student_lse_T1 = torch.logsumexp(student_TV, dim=-1, keepdim=True)
    with torch.no_grad():
        ids_TK = student_TV.topk(work.top_k, dim=-1, sorted=False).indices
        teacher_TV = work.teacher_hidden_TD @ work.teacher_weight_VD.T
        teacher_lse_T1 = torch.logsumexp(teacher_TV, dim=-1, keepdim=True)
        teacher_TK = teacher_TV.gather(1, ids_TK) - teacher_lse_T1
        del teacher_TV
    student_TK = student_TV.gather(1, ids_TK) - student_lse_T1
    del student_TV
    student_TB, teacher_TB = (bucket_logprobs(x, True) for x in (student_TK, teacher_TK))
    divergence_T = DIVERGENCES["jsd"].value(student_TB, teacher_TB, ObjectiveSection())
    loss = divergence_T.mean()
    torch.autograd.backward(loss)
    return loss.detach()


def trl(work: Problem) -> "Tensor":
    import torch

    divergence_T, _ = chunked_divergence()(
        *(work.student_hidden_TD, work.student_weight_VD, None),
        *(work.teacher_hidden_TD, work.teacher_weight_VD, None),
        0.5,
    )
    loss = divergence_T.mean()
    torch.autograd.backward(loss)
    return loss.detach()


RUNS: dict[str, Callable[[Problem], "Tensor"]] = {
    "ours": ours,
    "materialised": materialised,
    "ours_whole": ours_whole,
    "trl": trl,
}


def time_child(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(options.threads)
    work, sides = problem(options), options.sides.split(",")
    results = {side: result_of(RUNS[side], work) for side in sides}  # warms up, too
    pairs = {side: (results[side], results[same]) for side, same in SAME.items() if side in results}
    differences = {side: relative_distances(*pair) for side, pair in pairs.items()}
    del results, pairs
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(options.repeats):
        for side in sides:
            seconds[side].append(seconds_of(RUNS[side], work))
    return {"seconds": seconds, "differences": differences}


def result_of(run: Callable[[Problem], "Tensor"], work: Problem) -> "dict[str, Tensor]":
    forget_gradients(work)
    loss = run(work)
    hidden_TD, weight_VD = (leaf.grad for leaf in work.leaves())
    return {"loss": loss, "hidden": hidden_TD, "weight": weight_VD}


def relative_distances(
    found: "dict[str, Tensor]", expected: "dict[str, Tensor]"
) -> dict[str, float]:
    return {n: ((found[n] - e).norm() / e.norm()).item() for n, e in expected.items()}


def seconds_of(run: Callable[[Problem], "Tensor"], work: Problem) -> float:
    forget_gradients(work)
    start = time.perf_counter()
    run(work).item()
    return time.perf_counter() - start


def forget_gradients(work: Problem) -> None:
    for leaf in work.leaves():
        leaf.grad = None
    gc.collect()


def memory_child(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from tests.living_bytes import LivingBytes

    torch.set_num_threads(options.threads)
    (side,) = options.sides.split(",")
    RUNS[side](small_problem(options))  # what is imported and set up once is no memory of a step
    work = problem(options)
    gradients = sum(leaf.nbytes for leaf in work.leaves())
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if options.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        loss = RUNS[side](work).item()
        peak = torch.cuda.max_memory_allocated() - before
    else:
        with LivingBytes() as living:
            loss = RUNS[side](work).item()
        peak = living.peak
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rss
    return {"extra": peak - gradients, "rss": grown * 1024, "loss": loss}


CHILDREN: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "time": time_child,
    "memory": memory_child,
}


# ---- figures and tables --------------------------------------------------------------------------
def summarize(by_size: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    worst: dict[str, Any] = {}
    for ratio in RATIOS:
        cases = [case for case in by_size if ratio.time in case]
        worst[ratio.memory] = ratio.worst((case[ratio.memory] for case in cases), default=None)
        times = (case[ratio.time]["median"] for case in cases)
        worst[ratio.time] = ratio.worst(times, default=None)
    return {
        **worst,
        "by_size": by_size,
        "not_measured": [
            f"{side} at {case['tokens']} tokens: {why}"
            for case in by_size
            for side, why in case["missing"].items()
        ],
        "load": {"hidden": options.hidden, "vocabulary": options.vocabulary,
                 "top_k": options.top_k, "dtype": "float32", "device": options.device,
                 "threads": options.threads},
        "machine": machine(),
    }  # fmt: skip


def print_header() -> None:
    print(f"{'tokens':>7}  {'ratio':<24}{'MiB':>20}{'':>10}{'seconds':>18}{'':>9}"
          f"{'lowest':>9}{'highest':>9}", flush=True)  # fmt: skip


def print_row(case: dict[str, Any]) -> None:
    mib, seconds = case["extra_mib"], case["seconds"]
    for ratio in RATIOS:
        named = f"{case['tokens']:>7}  {ratio.above + ' / ' + ratio.below:<24}"
        if ratio.time not in case:
            print(f"{named}{'not measured':>20}", flush=True)
            continue
        sides, spent = (ratio.above, ratio.below), case[ratio.time]
        cells = [f"{mib[side]:>10.1f}" for side in sides] + [f"{case[ratio.memory]:>10.2f}"]
        cells += [f"{seconds[side]['median']:>9.2f}" for side in sides]
        cells += [f"{spent[key]:>9.2f}" for key in ("median", "min", "max")]
        print(named + "".join(cells), flush=True)


def print_summary(document: dict[str, Any]) -> None:
    print()
    for key, goal in GOALS.items():
        value = "none" if document[key] is None else f"{document[key]:.2f}"
        print(f"{key:<20}{value:>14}   goal {goal}")


if __name__ == "__main__":
    stop_with_parent()
    sys.exit(main())
