"""The published experiment in miniature, with nothing stood in for; a report of what was seen.

    tests/rehearsal/run.sh [--model PATH] [--data PATH] [--out DIR] [--section.key value ...]

Without arguments: a tiny random checkpoint of Qwen3.5's form and two dozen photographs, for CPUs.
Before a long run, on the machines of that run:

    tests/rehearsal/run.sh --model Qwen/Qwen3.5-4B --data FOLDER

where FOLDER is in the published form (train.jsonl and its pictures) or --data is a Parquet file of
ours, with 24 rows or more. Rows, launcher, real SGLang, pushes, a killed learner, its return from
the checkpoint, export, serving and a question by the `openai` client follow. Exit code 0: every
check holds. OUT/report.md and OUT/report.json tell what was seen.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from common.config_cli import exit_with, load
from common.engines.sglang import has_gpu
from common.errors import ConfigError, VisionOpdError
from tests.rehearsal import stages
from tests.rehearsal.processes import RehearsalError
from tests.rehearsal.report import Report, Stage, page
from tests.rehearsal.settings import ROOT, as_arguments, overrides


def main(argv: Sequence[str] | None = None) -> None:
    options, further = _arguments(argv)
    out: Path = (options.out or _new_folder()).absolute()
    if out.exists() and any(out.iterdir()):
        exit_with(ConfigError(f"--out {out}: it is in use. Fix: name a new folder"))
    out.mkdir(parents=True, exist_ok=True)
    report, missing = Report(), "it was cut off"
    try:
        rehearse(out, options.model, options.data, further, options.patience_s, report)
        missing = ""
    except (RehearsalError, VisionOpdError, OSError, KeyError) as error:
        missing = f"{type(error).__name__}: {error}"
    finally:
        report.check("the rehearsal came to its end", not missing, missing or "all stages")
        text = page(report)
        (out / "report.md").write_text(text, encoding="utf-8")
        (out / "report.json").write_text(json.dumps(report.as_json(), indent=1) + "\n")
        print(f"{text}\nreport: {out / 'report.md'}")
    raise SystemExit(0 if report.is_good else 1)


def rehearse(
    out: Path,
    model: str | None,
    data: Path | None,
    further: Sequence[str],
    patience_s: float,
    report: Report,
) -> None:
    """All stages in their order; what they saw goes into `report`.

    Raises:
        RehearsalError, VisionOpdError: a stage did not come to its end.
    """

    def stage(name: str, work: Callable[[], str]) -> None:
        print(f"{time.strftime('%H:%M:%S')} {name} ...", flush=True)
        began, said = time.monotonic(), "cut off"
        try:
            said = work()
        except Exception as error:
            said = f"failed: {type(error).__name__}"
            raise
        finally:
            report.stages.append(Stage(name, round(time.monotonic() - began, 1), said))

    is_tiny = model is None
    source = data or out / "published"
    checkpoint = model or str(out / "checkpoint")
    if is_tiny:
        stage("make a checkpoint", lambda: stages.make_checkpoint(Path(checkpoint)))
    if data is None:
        stage("make photographs", lambda: stages.make_photographs(source))
    dataset = source if source.suffix == ".parquet" else out / "dataset" / "train.parquet"
    if dataset != source:
        stage("convert", lambda: stages.convert(source, dataset, patience_s, report))
    changes = overrides(checkpoint, dataset, out / "run", is_tiny=is_tiny, has_gpu=has_gpu())
    arguments = [*as_arguments(changes), *further]
    config = load(arguments)
    plan = stages.Plan(out, checkpoint, dataset, config, arguments, patience_s)
    report.settings = changes | dict(zip(further[::2], further[1::2], strict=False))
    report.versions = stages.package_versions(config)
    try:
        stage("train", lambda: stages.train(plan, report))
    finally:
        stages.read_run(plan, report)
    stages.check_run(plan, report)
    stage("export", lambda: stages.export(plan))
    stages.check_template(plan, report)
    stage("serve and ask", lambda: stages.serve_and_ask(plan, report))


def _new_folder() -> Path:
    return ROOT / "runs" / time.strftime("rehearsal-%Y%m%d-%H%M%S")


def _arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="tests/rehearsal/run.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", help="folder or name on the hub; none: a tiny one is made")
    parser.add_argument(
        "--data", type=Path, help="published folder or Parquet file; none: photographs are made"
    )
    parser.add_argument("--out", type=Path, help="new folder (default: runs/rehearsal-DATE-TIME)")
    parser.add_argument(
        "--patience-s", type=float, default=3600.0, help="seconds that a stage may take (3600)"
    )
    return parser.parse_known_args(argv)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    main()
