"""The configuration tree: files, options, refusals.

Holds common/section.py.
"""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import ModelSection, RunConfig, StudentSection, TeacherSection
from common.config.objective import DivergenceName, TeacherPolicyName
from common.config_cli import RENAMED, build, dump_toml, help_text, load
from common.errors import ConfigError
from common.views.registry import names_for
from common.views.view import Role
from tests.common.config_keys import FILE, key_list

pytestmark = pytest.mark.smoke

CONFIGS = Path(__file__).resolve().parents[2] / "deploy" / "configs"

valid_changes = st.fixed_dictionaries(
    {},
    optional={
        "run": st.fixed_dictionaries(
            {"seed": st.integers(0, 2**31 - 1), "name": st.text(min_size=1, max_size=20)}
        ),
        "optimizer": st.fixed_dictionaries(
            {
                "lr": st.floats(1e-9, 1.0),
                "betas": st.tuples(st.floats(0, 0.99), st.floats(0, 0.999)),
                "warmup_from_zero": st.booleans(),
            }
        ),
        "learner": st.fixed_dictionaries({"max_steps": st.none() | st.integers(1, 10**6)}),
        "objective": st.fixed_dictionaries(
            {
                "divergence": st.sampled_from(get_args(DivergenceName)),
                "importance_clip": st.none() | st.floats(0.1, 10),
            }
        ),
    },
)


@given(valid_changes)
def test_a_dumped_config_loads_as_itself(tmp_path_factory, changes) -> None:
    config = build(changes)
    path = tmp_path_factory.mktemp("config") / "config.toml"
    path.write_text(dump_toml(config), encoding="utf-8")
    assert load(["--config", str(path)]) == config


def test_later_options_win_and_both_spellings_work(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[optimizer]\nlr = 1e-3\nweight_decay = 0.5\n")
    config = load(
        ["--config", str(tmp_path / "a.toml"), "--optimizer.lr=2e-3", "--optimizer.lr", "3e-3"]
    )
    assert (config.optimizer.lr, config.optimizer.weight_decay) == (3e-3, 0.5)


@given(layers=st.integers(0, 64), hundredths=st.integers(0, 100))
def test_a_share_of_a_stack_is_recomputed_evenly_spread(layers: int, hundredths: int) -> None:
    model = ModelSection(gradient_checkpointing=hundredths / 100)
    chosen = [model.recomputes(layer) for layer in range(layers)]
    assert sum(chosen) == model.num_recomputed(layers) == layers * hundredths // 100
    first, second = chosen[: layers // 2], chosen[layers // 2 : layers // 2 * 2]
    assert abs(sum(first) - sum(second)) <= 1


@pytest.mark.parametrize(("text", "of_seven"), [("true", 7), ("false", 0), ("1", 7), ("0.5", 3)])
def test_recomputation_is_on_off_or_a_share(text: str, of_seven: int) -> None:
    assert load(["--model.gradient_checkpointing", text]).model.num_recomputed(7) == of_seven


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[data]\ntrain = "d/t.parquet"\n[model]\npath = "../m"\n')
    config = load(["--config", str(tmp_path / "a.toml")])
    assert config.data.train == tmp_path / "d/t.parquet"
    assert config.model.path == str(tmp_path.parent / "m")


def test_a_file_extends_another_one(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("[optimizer]\nlr = 1e-3\nweight_decay = 0.5\n")
    (tmp_path / "top.toml").write_text('extends = "base.toml"\n[optimizer]\nlr = 2e-3\n')
    config = load(["--config", str(tmp_path / "top.toml")])
    assert (config.optimizer.lr, config.optimizer.weight_decay) == (2e-3, 0.5)
    (tmp_path / "base.toml").write_text('extends = "top.toml"\n')
    with pytest.raises(ConfigError, match="extends itself"):
        load(["--config", str(tmp_path / "top.toml")])


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--broker.max_stalenes", "1"], ["broker.max_stalenes", "broker.max_staleness?"]),
        (["--brokr.max_staleness", "1"], ["[brokr]", "mean broker?"]),
        (["--broker.max_staleness", "soon"], ["broker.max_staleness", "'soon'", "give INT"]),
        (["--objective.top_k", "0"], ["objective.top_k", "'0'", "greater than 0"]),
        (["--objective.divergence", "kl"], ["'kl'", "jsd|forward_kl|reverse_kl"]),
        (["--optimizer.betas", "0.9"], ["optimizer.betas", "FLOAT,FLOAT"]),
        (["--model.gradient_checkpointing", "2"], ["'2'", "equal to 1", "give BOOL|FLOAT."]),
        (["--learner.max_steps"], ["--learner.max_steps", "no value"]),
        (["stray"], ["'stray'", "--config FILE"]),
        (["--verbose", "1"], ["--verbose"]),
        (["--config", "missing.toml"], ["missing.toml", "no such file"]),
        (["--rollout.top_k", "50"], ["rollout.top_k", "importance_clip", "Fix"]),
        (["--evaluation.every_steps", "5"], ["data.heldout", "Fix"]),
        (["--rollout.deterministic", "true"], ["rollout.engine", "Fix"]),
        (["--teacher.view", "full", "--teacher.policy", "current"], ["teacher.policy", "Fix"]),
        (["--weights.backend", "nccl", "--learner.device", "cpu"], ["weights.backend", "Fix"]),
    ],
)
def test_a_mistake_is_one_line_with_key_value_and_fix(
    arguments: list[str], parts: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(arguments)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("[broker]\nmax_stalenes = 1\n", "broker.max_staleness?"),
        ("[broker\n", "a.toml"),
        ("seed = 1\n", "outside a section"),
        ('[broker]\nmax_staleness = "x"\n', "broker.max_staleness"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(tmp_path: Path, content: str, part: str) -> None:
    (tmp_path / "a.toml").write_text(content)
    with pytest.raises(ConfigError) as caught:
        load(["--config", str(tmp_path / "a.toml")])
    assert part in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_every_shipped_config_loads(path: Path) -> None:
    assert load(["--config", str(path)])


def test_the_published_config_names_every_constant_of_the_method_and_equals_the_defaults() -> None:
    path = CONFIGS / "vision_opd_qwen3_5_4b.toml"
    assert load(["--config", str(path)]) == RunConfig()
    named = tomllib.loads(path.read_text())
    options = {  # which the published run does without
        "objective": {
            "token_weights",
            "visual_advantage_share",
            "visual_advantage_mass",
            "visual_advantage_pixels",
        },
        "teacher": {
            "path",
            "revision",
            "interval_steps",
            "student_share",
            "offload",
            "answer_hint",
            "box_text",
        },
        "student": {"red_box_pixels", "degradations", "degradation_strength"},
        "optimizer": set(),
    }
    for section, unnamed in options.items():
        fields = type(getattr(RunConfig(), section)).model_fields.keys()
        assert named[section].keys() == fields - unnamed


def test_controls_differ_from_the_quickstart_in_the_teachers_view_alone() -> None:
    quickstart = load(["--config", str(CONFIGS / "quickstart.toml")])
    for name, view in (("teacher_full", "full"), ("random_crop", "random_crop")):
        control = load(["--config", str(CONFIGS / f"quickstart_{name}.toml")])
        assert control.teacher.view == view
        teacher = control.teacher.model_copy(update={"view": quickstart.teacher.view})
        same = control.model_copy(update={"teacher": teacher, "run": quickstart.run})
        assert same == quickstart


def test_readme_and_help_name_every_choice_of_what_is_learned() -> None:
    readme = (CONFIGS.parent / "README.md").read_text(encoding="utf-8")
    names = {"divergence": get_args(DivergenceName), "policy": get_args(TeacherPolicyName)}
    names |= {f"{role}.view": names_for(role) for role in get_args(Role)}
    for choice in (name for several in names.values() for name in several):
        assert f"`{choice}`" in readme
    sections = {"student.view": StudentSection, "teacher.view": TeacherSection}
    for key, section in {**sections, "policy": TeacherSection}.items():
        description = section.model_fields[key.rpartition(".")[2]].description
        assert set(names[key]) <= set(re.findall(r"\w+", description))


def test_help_lists_every_field_with_its_default() -> None:
    text = help_text("program", "Purpose.")
    for section, info in RunConfig.model_fields.items():
        for key, field in info.annotation.model_fields.items():
            line = next(line for line in text.splitlines() if f"--{section}.{key} " in line)
            assert field.description in line and "(default: " in line


@pytest.mark.parametrize(
    "program", ["learner.main", "rollout.main", "broker.main", "deploy.launch"]
)
def test_help_imports_nothing_heavy(program: str) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{program}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('{program}', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    heavy = {'torch', 'transformers', 'ray', 'pyarrow'} & sys.modules.keys()\n"
        "    sys.exit(end.code or (f'imported {heavy}' if heavy else 0))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--broker.max_staleness INT" in done.stdout


@pytest.mark.parametrize(
    ("argv", "fix"),
    [
        ("--resume", "unknown option --resume. Fix: did you mean --run.resume true?"),
        ("--resume true", "unknown option --resume. Fix: did you mean --run.resume true?"),
        ("--run.resume", "--run.resume has no value. Fix: --run.resume true"),
        ("--max-steps 3", "unknown option --max-steps. Fix: did you mean --learner.max_steps?"),
        ("--folder x", "Fix: did you mean --run.folder or --weights.folder?"),
        ("--config", "--config has no value. Fix: --config FILE"),
        ("--learner.max_steps", "--learner.max_steps has no value. Fix: --learner.max_steps INT|n"),
        ("--qqq 1", "unknown option --qqq. Fix: options are --config and --section.key; --help"),
    ],
)
def test_an_option_without_its_section_or_value_is_told_how_it_is_written(
    argv: str, fix: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(argv.split())
    assert fix in str(caught.value)


def test_every_key_its_type_and_its_default_are_listed() -> None:
    assert FILE.read_text(encoding="utf-8") == key_list(), (
        "keys have changed. Fix: put a renamed key into common.config_cli.RENAMED, then run "
        "python -m tests.common.config_keys and commit the list"
    )


def test_every_key_is_read_somewhere() -> None:
    """Outside the sections, as an attribute or by name: else a value would change nothing."""
    root, read = Path(__file__).resolve().parents[2], set()
    packages = ("broker", "common", "deploy", "learner", "rollout")
    for path in (path for package in packages for path in (root / package).rglob("*.py")):
        if path.parent == root / "common" / "config":
            continue
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        read |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        read |= {str(node.value) for node in nodes if isinstance(node, ast.Constant)}
    keys = {line.partition(":")[0] for line in key_list().splitlines()}
    through = {"teacher.policy": "traits"}  # what a section makes of its key, and others read
    read_as = {key: through.get(key, key.partition(".")[2]) for key in keys}
    assert {key for key in keys if read_as[key] not in read} == set()


def test_a_renamed_key_leads_to_a_key_and_hides_none() -> None:
    listed = {line.partition(":")[0] for line in key_list().splitlines()}
    assert RENAMED.keys().isdisjoint(listed) and set(RENAMED.values()) <= listed


@pytest.fixture
def renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two keys with names that are new in this version, one of them a section with it."""
    monkeypatch.setitem(RENAMED, "optimizer.learning_rate", "optimizer.lr")
    monkeypatch.setitem(RENAMED, "source.file", "data.train")


@pytest.mark.usefixtures("renamed")
def test_a_renamed_key_works_with_a_hint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.toml").write_text('[optimizer]\nlearning_rate = 1e-3\n[source]\nfile = "t.x"\n')
    config = load(["--config", str(tmp_path / "a.toml")])
    assert config.optimizer.lr == 1e-3 and config.data.train == tmp_path / "t.x"
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'a.toml'}: {old} is now {new}; only this version takes the old name"
        for old, new in (
            ("optimizer.learning_rate", "optimizer.lr"),
            ("source.file", "data.train"),
        )
    ]
    caplog.clear()
    assert load(["--optimizer.learning_rate", "2e-3", "--optimizer.lr=3e-3"]).optimizer.lr == 3e-3
    assert "--optimizer.learning_rate: optimizer.learning_rate is now optimizer.lr" in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.usefixtures("renamed")
def test_a_renamed_key_is_refused_beside_its_new_name_and_checked_as_it(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[optimizer]\nlearning_rate = 1e-3\nlr = 1e-3\n")
    with pytest.raises(ConfigError, match=r"stands there too\. Fix: delete optimizer\.learning_ra"):
        load(["--config", str(tmp_path / "a.toml")])
    with pytest.raises(ConfigError, match=r"optimizer\.lr = '0'.*greater than 0"):
        load(["--optimizer.learning_rate", "0"])
    with pytest.raises(ConfigError, match=r"has no value\. Fix: --optimizer\.learning_rate FLOAT"):
        load(["--optimizer.learning_rate"])
