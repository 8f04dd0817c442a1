"""`python -m learner.checking PART --out FILE`: one part of `python -m deploy.check_gpu`.

A process of its own a part: what a fault on the device leaves behind ends with it.
"""

from collections.abc import Iterator, Sequence

import torch

import common.torchvision_compat  # noqa: F401  (must come before transformers)
from learner.checking import findings
from learner.checking.command import parsed, parser_of
from learner.checking.faults import check_faults
from learner.checking.findings import Finding
from learner.checking.imagined import check_plan
from learner.checking.kernels import check_kernels
from learner.checking.sizes import SMALL, TRUE
from learner.checking.step import check_step, plan_for
from learner.checking.versions import check_versions

PARTS = ("versions", "plan", "kernels", "step", "faults")


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of("python -m learner.checking")
    parser.add_argument("part", choices=PARTS)
    options = parsed(parser, argv)
    torch.backends.cudnn.allow_tf32 = False  # references are float32 indeed
    device = torch.device(options.device)
    for finding in check(options.part, device, options.small):
        findings.append(options.out, finding)


def check(part: str, device: torch.device, is_small: bool) -> Iterator[Finding]:
    """All findings of one of PARTS. An error of one check ends its part."""
    is_gpu = device.type == "cuda"
    if part == "versions":
        return check_versions(device)
    if part == "plan":
        return check_plan(SMALL if is_small else TRUE, is_small)
    if part == "kernels":
        dtype = torch.bfloat16 if is_gpu else torch.float32
        return check_kernels(SMALL if is_small else TRUE, device, dtype)
    if part == "step":
        plan = plan_for(is_small, torch.cuda.mem_get_info(device)[0] if is_gpu else None)
        return check_step(plan, device, "bfloat16" if is_gpu else "float32")
    return check_faults(device)


if __name__ == "__main__":
    main()
