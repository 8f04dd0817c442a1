"""Runs a study: python -m deploy.study FILE.toml [--out DIR] [--section.key value ...]

Each variant is run with each seed, a whole run of deploy/launch_cluster.sh at a time. What is done
already is skipped, and a run that was cut off goes on where it was: the same command again goes on
with a study. A run that fails is told, and the others go on. Ctrl-C drains the run under way.

DIR holds the runs, study.md, study.html and study.json, which are made anew after every run.
Options of the configuration come after FILE.toml and hold for every run.
"""

import argparse
import asyncio
import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from common import lifecycle
from common.config_cli import exit_with
from common.errors import ConfigError
from common.locks import Lock, try_lock
from common.output import ends_with_its_reader, goes_on_without_readers
from deploy.cluster.process_specs import ROOT
from deploy.exit_codes import ExitCode
from deploy.study.columns import figures_of
from deploy.study.pages import HTML, as_markdown, results_of, write_results
from deploy.study.planned_runs import Run, State, differences, planned_runs, state_of
from deploy.study.runner import Launching, run_all
from deploy.study.selection import check_further, check_unchanged, selected, with_seeds
from deploy.study.study_file import StudyFile, read_study
from deploy.study.tables import progress_lines, run_row, run_rows
from deploy.study.variants import baselines, variants_of
from deploy.supervision.run_folder import check_unowned

LAUNCHER = ROOT / "deploy" / "launch_cluster.sh"
_LOCK = "study.lock"
_EXIT_CODES = """\
Exit codes:
  0    all runs that were asked for are done
  1    a run failed; the others were run
  2    refused before the first run
  130  stopped by Ctrl-C or SIGTERM; the same command goes on"""


def main(argv: Sequence[str] | None = None) -> None:
    options, further = _parse(argv)
    try:
        raise SystemExit(_study(options, further))
    except ConfigError as error:
        exit_with(error)
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(ExitCode.FAILED) from None


def _parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.study",
        description=__doc__,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", type=Path, metavar="FILE.toml", help="see deploy/configs/studies/")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="default: runs/studies/NAME beside the code"
    )
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="N seeds from the first one on, not the file's"
    )
    parser.add_argument(
        "--first-seed", type=int, metavar="S", help="with --seeds (default: the file's first)"
    )
    parser.add_argument(
        "--only", metavar="NAME,...", help="run these variants alone; patterns such as 'jsd*'"
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="delete runs that had another configuration, and make them anew",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be run")
    parser.add_argument(
        "--launcher", type=Path, metavar="PROGRAM", default=LAUNCHER, help=f"default: {LAUNCHER}"
    )
    return parser.parse_known_args(argv)


def _study(options: argparse.Namespace, further: list[str]) -> int:
    study = with_seeds(read_study(options.file), options.seeds, options.first_seed)
    try:
        variants = variants_of(study)
        baseline_of = baselines(study, variants)
    except ConfigError as error:
        raise ConfigError(f"{options.file}: {error}") from None
    check_further(variants, further)
    if not options.launcher.is_file():
        raise ConfigError(f"--launcher {options.launcher}: no such file. Fix: leave it out")
    out = (options.out or ROOT / "runs" / "studies" / study.study.name).absolute()
    runs = planned_runs(study, variants, study.study.seeds, further, options.file, out)
    wanted = selected(variants, options.only)
    chosen = [run for run in runs if run.variant.name in wanted]
    if options.dry_run:
        _tell_plan(chosen, options.launcher)
        return ExitCode.TRAINED
    if not options.again:
        check_unchanged(chosen)
    for run in chosen:
        check_unowned(run.folder)

    def write() -> str:
        results = results_of(study, variants, baseline_of, runs)
        write_results(results, out)
        return as_markdown(results)

    with _owned(out), goes_on_without_readers():
        failed, is_stopped = _run(study, chosen, options.launcher, write)
        print(f"\n{write()}\n{out / HTML}", flush=True)
    if is_stopped:
        print("stopped: the same command goes on with this study", flush=True)
        return ExitCode.INTERRUPTED
    return ExitCode.FAILED if failed else ExitCode.TRAINED


def _tell_plan(runs: Sequence[Run], launcher: Path) -> None:
    for run in runs:
        state = state_of(run)
        arguments = run.resuming_arguments if state is State.CUT_OFF else run.arguments
        print(f"{run.name}: {state.value}")
        for line in differences(run) if state is State.CHANGED else ():
            print(f"    {line}")
        if state is not State.DONE:
            print(f"    {shlex.join([str(launcher.absolute()), *arguments])}")


@contextlib.contextmanager
def _owned(out: Path) -> Iterator[None]:
    """Lock the folder, so that no other study writes there. Raises ConfigError."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / _LOCK).open("a") as file:
        if try_lock(file.fileno()) is Lock.HELD:
            raise ConfigError(
                f"--out {out}: another study runs there. Fix: end it, or name another"
            )
        yield


def _run(
    study: StudyFile, runs: Sequence[Run], launcher: Path, write: Callable[[], str]
) -> tuple[bool, bool]:
    """Whether a run failed, and whether the study was stopped."""
    columns = study.study.columns
    line = progress_lines(columns, [run.name for run in runs])
    failed, is_stopped = False, False

    def on_end(run: Run) -> None:
        print(line(run_row(run.name, figures_of(run.folder), columns)), flush=True)
        write()

    async def supervised(stop: asyncio.Event) -> None:
        nonlocal failed, is_stopped
        at_once = asyncio.Event()
        lifecycle.set_on_signals(stop, at_once)
        launching = Launching([str(launcher.absolute())], study.study.run_timeout_s, stop, at_once)
        codes = await run_all(runs, launching, _report, on_end)
        failed, is_stopped = bool(codes), stop.is_set()

    print(line(run_rows({}, columns)[0]), flush=True)
    lifecycle.run(supervised)
    return failed, is_stopped


def _report(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    with ends_with_its_reader():
        main()
