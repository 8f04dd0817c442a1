from pathlib import Path

import pytest

from common.errors import ConfigError
from deploy.cluster.process_specs import ROOT
from deploy.study.columns import DEFAULT_COLUMNS
from deploy.study.planned_runs import planned_runs
from deploy.study.study_file import StudyFile, read_study
from deploy.study.variants import baselines, variants_of

SHIPPED = ROOT / "deploy" / "configs" / "studies"
HEAD = '[study]\nname = "s"\nconfig = "base.toml"\n'
ONE = "[variants.a]\n"


def read(folder: Path, text: str) -> StudyFile:
    (folder / "base.toml").write_text('[run]\nname = "base"\n')
    (folder / "study.toml").write_text(text)
    return read_study(folder / "study.toml")


def test_a_study_of_one_variant_has_defaults(tmp_path: Path) -> None:
    study = read(tmp_path, HEAD + ONE)
    assert study.study.seeds == (0, 1, 2)
    assert study.study.columns == DEFAULT_COLUMNS
    assert study.study.config == tmp_path / "base.toml"
    assert study.variants["a"].overrides == {}


def test_keys_may_be_written_with_and_without_quotes(tmp_path: Path) -> None:
    quoted = '[variants.a]\noverrides = { "teacher.view" = "full", "learner.max_steps" = 2 }\n'
    tables = '[variants.a.overrides]\nteacher.view = "full"\nlearner.max_steps = 2\n'
    expected = {"teacher.view": "full", "learner.max_steps": 2}
    for text in (quoted, tables):
        assert read(tmp_path, HEAD + text).variants["a"].overrides == expected
    grid = read(tmp_path, f"{HEAD}[grid]\nbroker.max_staleness = [0, 1]\n").grid
    assert grid == {"broker.max_staleness": (0, 1)}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (HEAD, ["nothing to run", "[variants.NAME]"]),
        ("[variants.a]\n", ["study is missing", "add it"]),
        (HEAD.replace('name = "s"\n', "") + ONE, ["study.name is missing", "Name of the study"]),
        (HEAD + "sedes = [0]\n" + ONE, ["unknown key study.sedes", "use one of", "seeds"]),
        (HEAD + "seeds = [0, 0]\n" + ONE, ["study.seeds = [0, 0]", "each once"]),
        (HEAD + "seeds = [-1]\n" + ONE, ["study.seeds.0 = -1", "Seeds; each variant"]),
        (HEAD + "seeds = []\n" + ONE, ["study.seeds", "at least 1"]),
        (HEAD + 'columns = ["gap"]\n' + ONE, ["study.columns", "'gap'", "use full_before"]),
        (HEAD.replace("base", "bass") + ONE, ["study.config = 'bass.toml'", "there is no"]),
        (HEAD + "[variants.'a b']\n", ["variants.a b", "pattern"]),
        (HEAD + ONE + "titel = 1\n", ["unknown key variants.a.titel", "title, overrides"]),
        (HEAD + ONE + "overrides = { view = 1 }\n", ["variants.a.overrides.view", "pattern"]),
        (HEAD + '[grid]\n"a.b" = []\n', ["grid.a.b", "at least 1"]),
        (
            HEAD + ONE + 'overrides = { "a.b" = 1 }\n[grid]\n"a.b" = [1, 2]\n',
            ["variants.a sets a.b", "leave out one"],
        ),
        ("[study\n", ["correct the file"]),
    ],
)
def test_a_mistake_is_told_with_file_key_and_mend(
    tmp_path: Path, text: str, parts: list[str]
) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, text)
    message = str(raised.value)
    for part in (str(tmp_path / "study.toml"), "Fix: ", *parts):
        assert part in message
    assert "\n" not in message


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_study(tmp_path / "none.toml")


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_every_study_that_is_shipped_could_be_run(path: Path, tmp_path: Path) -> None:
    study = read_study(path)
    variants = variants_of(study)
    assert baselines(study, variants).keys() == {variant.name for variant in variants}
    runs = planned_runs(study, variants, study.study.seeds, (), path, tmp_path)
    configs = [run.config.model_copy(update={"run": None}) for run in runs[: len(variants)]]
    assert len(runs) == len(variants) * len(study.study.seeds)
    assert all(config not in configs[:i] for i, config in enumerate(configs))  # each another one
