"""The whole command, with a launcher that leaves run folders without training."""

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest

from deploy.cluster.process_specs import ROOT
from tests.deploy.study.studies import TEXT, TIMEOUT_S, Study
from tests.waiting import wait_until

ALL = ["crop.seed-0", "full.seed-0", "crop.seed-1", "full.seed-1"]
SECOND = "full.seed-0"  # of the runs


def beginnings(names: list[str]) -> list[str]:
    return [f"{name} begins" for name in names]


def test_every_variant_is_run_with_every_seed_and_told(tmp_path: Path) -> None:
    study = Study(tmp_path)
    code, said = study.run()
    assert code == 0, said
    assert study.calls() == beginnings(ALL)
    results = study.results()
    assert results["variants"]["crop"]["columns"]["full_after"]["values"] == [0.875, 0.890625]
    assert results["variants"]["full"]["differences"]["full_after"] == {
        "pairs": 2,
        "mean": -0.375,
        "low": -0.375,
        "high": -0.375,
    }
    assert {run["state"] for run in results["runs"].values()} == {"done"}
    text = (study.out / "study.md").read_text()
    assert text in said
    assert "88.3 % (87.5 to 89.1 %)" in text and "-37.5* (-37.5 to -37.5)" in text
    assert "- full: control" in text
    page = (study.out / "study.html").read_text()
    assert page.count("<svg") == 2  # full after, seconds
    assert "Crop &amp; control" in page and "src=" not in page and "href=" not in page


def test_what_is_done_is_not_run_again_and_more_seeds_are_added(tmp_path: Path) -> None:
    study = Study(tmp_path)
    assert study.run("--seeds", "1")[0] == 0
    assert study.run()[0] == 0
    assert study.calls() == beginnings(ALL)
    assert study.run("--seeds", "1", "--first-seed", "7", "--only", "fu*")[0] == 0
    assert study.calls() == beginnings([*ALL, "full.seed-7"])


def test_a_run_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    study = Study(tmp_path)
    code, said = study.run(STAND_IN_FAILS=SECOND)
    assert code == 1
    assert study.calls() == beginnings(ALL)
    assert "full.seed-0 failed with exit code 1" in said
    assert "the stand-in fails as it was told" in said
    assert study.results()["variants"]["full"]["seeds"] == [1]
    assert "to be gone on with (1): full.seed-0" in said
    assert study.run()[0] == 0
    assert study.calls()[4:] == ["full.seed-0 goes on"]
    assert study.results()["variants"]["full"]["seeds"] == [0, 1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_the_run_and_the_same_command_goes_on(
    tmp_path: Path, number: signal.Signals
) -> None:
    study = Study(tmp_path)
    with study.start(STAND_IN_WAITS=SECOND) as process:
        study.wait_for_call("full.seed-0 begins")
        process.send_signal(number)
        said, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert "the same command goes on" in said and "failed" not in said
    assert study.results()["runs"]["full.seed-0"]["state"] == "cut_off"
    assert study.run()[0] == 0
    assert study.calls() == [
        *beginnings(ALL[:2]),
        "full.seed-0 goes on",
        *beginnings(ALL[2:]),
    ]


def test_a_killed_study_drains_its_run_too(tmp_path: Path) -> None:
    study = Study(tmp_path)
    with study.start(STAND_IN_WAITS=SECOND) as process:
        study.wait_for_call("full.seed-0 begins")
        process.kill()
    wait_until((study.out / SECOND / "summary.json").exists)
    assert study.run()[0] == 0
    assert study.calls()[2:] == ["full.seed-0 goes on", *beginnings(ALL[2:])]


def test_a_run_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    study = Study(tmp_path, TEXT.replace("seeds =", "run_timeout_s = 0.05\nseeds ="))
    code, said = study.run("--seeds", "1")
    assert code == 1
    assert "crop.seed-0 failed with exit code 124" in said
    assert "full.seed-0 failed with exit code 124" in said


def test_another_configuration_is_named_and_refused_or_run_again(tmp_path: Path) -> None:
    study = Study(tmp_path)
    assert study.run("--seeds", "1")[0] == 0
    study.base.write_text("[broker]\nmax_staleness = 2\n")
    code, said = study.run()
    assert code == 2
    assert said.count("broker.max_staleness was 0, is 2") == 2 and "--again" in said
    assert "run.name" not in said  # has no consequences
    assert study.calls() == beginnings(ALL[:2])
    assert study.run("--again", "--seeds", "2")[0] == 0
    assert study.calls()[2:] == beginnings(ALL)
    crop = study.results()["variants"]["crop"]["columns"]["full_after"]
    assert crop["values"] == [0.875, 0.8828125]


def test_a_key_that_is_new_in_the_code_counts_as_its_default(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.run("--seeds", "1")
    for name in ("crop", "full"):
        path = study.out / f"{name}.seed-0.json"
        record = json.loads(path.read_text())
        del record["config"]["teacher"]["view"]
        path.write_text(json.dumps(record))
    said = study.run("--dry-run", "--seeds", "1")[1]
    assert "crop.seed-0: done\n" in said  # teacher.view = crop is what it is without a word
    assert "teacher.view was crop, is full" in said


def test_a_typo_is_refused_before_the_first_run(tmp_path: Path) -> None:
    text = TEXT.replace("teacher.view", "teacher.vew")
    study = Study(tmp_path, text)
    code, said = study.run()
    assert code == 2
    assert f"{study.file}: variant full: --teacher.vew: unknown key" in said
    assert "did you mean teacher.view?" in said
    assert not study.out.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", "crap"], "--only crap: no such variant. Fix: did you mean crop?"),
        (["--seeds", "0"], "--seeds 0 --first-seed 0. Fix: "),
        (["--teacher.view", "crop"], "--teacher.view: variant full is told apart by it. Fix: "),
        (["--learner.steps", "2"], "unknown key learner.steps"),
        (["--launcher", "none.sh"], "--launcher none.sh: no such file. Fix: "),
        (["word"], "unexpected argument 'word'"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path: Path, arguments: list[str], told: str) -> None:
    study = Study(tmp_path)
    code, said = study.run(*arguments)
    assert (code, study.calls()) == (2, [])
    assert told in said


def test_two_studies_do_not_share_a_folder(tmp_path: Path) -> None:
    study = Study(tmp_path)
    with study.start(STAND_IN_WAITS=ALL[0]) as process:
        study.wait_for_call("crop.seed-0 begins")
        code, said = study.run()
        process.terminate()
        process.communicate(timeout=TIMEOUT_S)
    assert code == 2
    assert "another study runs there" in said


def test_a_dry_run_says_what_it_would_do(tmp_path: Path) -> None:
    study = Study(tmp_path)
    assert study.run("--seeds", "1", STAND_IN_FAILS=SECOND)[0] == 1
    code, said = study.run("--dry-run", "--learner.max_steps=3", "--only", "crop")
    assert code == 0
    assert "learner.max_steps was none, is 3" in said
    code, said = study.run("--dry-run")
    assert "crop.seed-0: done\nfull.seed-0: to be gone on with\n" in said
    assert f"{study.launcher} --config {study.base} --run.seed 1" in said
    assert f"--config {study.out / SECOND / 'config.toml'} --run.resume true" in said
    assert len(study.calls()) == 2


def test_paths_in_overrides_are_relative_to_the_file(tmp_path: Path) -> None:
    text = '[study]\nname = "s"\nconfig = "base.toml"\nseeds = [0]\n'
    text += '[variants.a]\noverrides = { "data.train" = "d/t.parquet" }\n'
    code, said = Study(tmp_path, text).run("--dry-run", "--data.heldout", "h.parquet")
    assert code == 0, said
    assert f"--data.train {tmp_path}/d/t.parquet" in said
    assert f"--data.heldout {ROOT}/h.parquet" in said


def test_a_grid_is_drawn_along_its_axis(tmp_path: Path) -> None:
    text = TEXT + '[grid]\n"broker.max_staleness" = [0, 1, 2]\n'
    study = Study(
        tmp_path, text.replace("seeds =", "baseline = { broker.max_staleness = 0 }\nseeds =")
    )
    code, said = study.run("--seeds", "2", "--only", "crop+*")
    assert code == 0, said
    found = study.results()["variants"]["crop+max_staleness=2"]
    assert found["baseline"] == "crop+max_staleness=0"
    assert found["differences"]["full_after"]["mean"] == -1 / 256  # 0 and -1/128
    page = (study.out / "study.html").read_text()
    assert page.count(">broker.max_staleness</text>") == 2  # full after, seconds
    assert len(re.findall(r"<title>broker.max_staleness \d:", page)) == 6


@pytest.mark.slow
def test_effect_is_a_use_of_it(tmp_path: Path) -> None:
    study = Study(tmp_path)
    command = [str(ROOT / "tests" / "bench" / "effect.py"), "--seeds", "2", "--first-seed", "3"]
    further = ["--controls", "--json", str(tmp_path / "e.json"), "--launcher", str(study.launcher)]
    done = subprocess.run(
        [*command, *further, "--learner.max_steps", "2"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    variants = json.loads((tmp_path / "e.json").read_text())["variants"]
    assert {name: found["seeds"] for name, found in variants.items()} == {
        "crop": [3, 4],
        "full": [3, 4],
        "random_crop": [3, 4],
    }
    assert variants["random_crop"]["differences"]["full_after"]["mean"] == -0.75
    assert "random_crop.seed-4" in done.stdout and "-75.0*" in done.stdout
