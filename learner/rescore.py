"""What kept weights make of one group: `python -m learner.rescore --config RUN/config.toml`.

A JSON request comes by standard input: {"sample_id", "group_id", "step", "responses", "top_k"}.
`step` is the one that trained the group, `responses` holds the token ids of all its trajectories.
The answer, one JSON object in the file --out:

    {"checkpoint_step": int,            version of the weights; a step begins from step - 1
     "is_exact": bool,                  whether that is step - 1
     "checkpoint": str,                 name of its folder; "start": the model the run started from
     "device": "cpu" | "cuda",
     "temperature": float,              all probabilities are at it, and of the whole vocabulary:
     "banned_token_ids": [int, ...],    also of these, which rollout may not sample
     "responses": [{
         "student_logprob": [float, ...],   of the sampled tokens, in nats; without the banned ids
         "teacher_logprob": [...], "divergence": [...], "entropy": [...],
         "positions": [{"student": [[text, probability, id], ...], "teacher": [...]}, ...]
     }, ...]}

Views, packing, forward passes and heads are those of a step. It is polite: the lowest priority, a
thread or two, and a GPU only if it is asked for one that is idle.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from common.command_line import parser_of, refusing
from common.config_cli import load
from common.files import replace_text
from common.gpus import idle_gpu


def main(argv: Sequence[str] | None = None) -> None:
    options = _arguments(argv)
    os.nice(19)
    with refusing("rescore"):
        device = _device(options.device)
        import torch  # after the choice of a GPU, which counts from its start

        from learner.rescoring import RescoreRequest, rescore

        torch.set_num_threads(options.threads)
        request = RescoreRequest.of(sys.stdin.read())
        config = load(["--config", str(options.config)])
        folder = options.config.resolve().parent
        answer = rescore(config, folder, request, options.checkpoint, torch.device(device))
        replace_text(options.out, json.dumps(answer, allow_nan=False) + "\n")


def _device(wanted: str) -> str:
    """The device to compute on: "cpu" where no GPU is idle."""
    if wanted == "cuda" and (gpu := idle_gpu()) is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
        return "cuda"
    return "cpu"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("python -m learner.rescore", __doc__)
    parser.add_argument("--config", type=Path, required=True, help="RUN/config.toml")
    parser.add_argument("--out", type=Path, required=True, help="the file for the answer")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="DIR",
        help="RUN/checkpoints/step-N (default: the nearest to the weights before the step)",
    )  # fmt: skip
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu",
        help="cuda: an idle GPU, if there is one; else CPUs (default: cpu)",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
