"""What the checks before a start take for granted, and what they say of a run's length."""

from pathlib import Path
from typing import Any

import pytest

from common.config_cli import build
from common.errors import ConfigError
from common.source import SampleSource
from deploy.preflight.check import length_line
from deploy.preflight.context import check_context, context_limit
from deploy.quickstart.own import CACHE, without_foreign_heldout
from tests.broker.support import make_source


@pytest.mark.parametrize(
    ("samples", "epochs", "groups", "most", "line"),
    [
        (40, 1, 32, None, "40 samples x 1 epoch = 1 step of 32; 8 samples left over"),
        (40, 1, 32, 40, "40 samples x 1 epoch = 1 step of 32; 8 samples left over"),
        (41, 1, 10, None, "41 samples x 1 epoch = 4 steps of 10; 1 sample left over"),
        (40, 2, 8, None, "40 samples x 2 epochs = 10 steps of 8"),
        (40, 2, 8, 10, "40 samples x 2 epochs = 10 steps of 8"),
        (40, 2, 8, 3, "= 10 steps of 8, of which learner.max_steps = 3 are trained"),
        (1, 1, 1, None, "1 sample x 1 epoch = 1 step of 1"),
    ],
)
def test_the_start_says_how_long_the_run_is_and_what_decides(
    samples: int, epochs: int, groups: int, most: int | None, line: str
) -> None:
    config = build(
        {"data": {"epochs": epochs}, "learner": {"groups_per_step": groups, "max_steps": most}}
    )
    source = SampleSource(make_source(samples).samples, epochs=epochs)
    assert length_line(config, source).endswith(line)


@pytest.mark.parametrize(
    ("tree", "model", "limit"),
    [
        ({}, {"text_config": {"max_position_embeddings": 4096}}, 4096),
        ({}, {"max_position_embeddings": 512}, 512),
        ({}, {}, None),
        ({"sglang": {"context_tokens": 99}}, {"max_position_embeddings": 512}, 99),
        ({"sglang": {"extra_flags": ("--context-length", "77")}}, {}, 77),
        ({"sglang": {"extra_flags": ("--x", "--context-length=66")}}, {}, 66),
        ({"sglang": {"context_tokens": 99}, "rollout": {"engine": "embedded"}}, {}, None),
        (
            {},
            {"max_position_embeddings": 100, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
            400,
        ),
    ],
)
def test_whose_context_counts(
    tree: dict[str, Any], model: dict[str, Any], limit: int | None
) -> None:
    assert context_limit(build(tree), model)[0] == limit


def test_a_context_is_refused_only_where_no_row_fits(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 100}')
    samples = make_source(3).samples
    config = build({"rollout": {"max_response_tokens": 99, "engine": "embedded"}})
    check_context(config, tmp_path, samples)  # a prompt of one token would fit
    (tmp_path / "preprocessor_config.json").write_text(
        '{"patch_size": 1, "merge_size": 1, "size": {"shortest_edge": 16, "longest_edge": 64}}'
    )
    with pytest.raises(ConfigError, match=r"holds 100 tokens .*shortest prompt has 64 or more"):
        check_context(config, tmp_path, samples)
    check_context(build({"rollout": {"max_response_tokens": 36}}), tmp_path, samples)


@pytest.mark.parametrize(
    ("train", "heldout", "arguments", "is_measured"),
    [
        ("/mine.parquet", CACHE / "heldout.parquet", (), False),
        ("/mine.parquet", CACHE / "heldout.parquet", ("--data.heldout", "x"), True),
        ("/mine.parquet", CACHE / "heldout.parquet", ("--data.heldout=x",), True),
        ("/mine.parquet", "/other.parquet", (), True),
        (CACHE / "train.parquet", CACHE / "heldout.parquet", (), True),
    ],
)
def test_own_data_are_not_measured_on_the_quickstarts_scenes(
    train: Path, heldout: Path, arguments: tuple[str, ...], is_measured: bool
) -> None:
    config = build(
        {"data": {"train": train, "heldout": heldout}, "evaluation": {"every_steps": 10}}
    )
    lines: list[str] = []
    config = without_foreign_heldout(config, arguments, lines.append)
    assert (config.data.heldout is not None) is is_measured
    assert config.evaluation.every_steps == (10 if is_measured else 0)
    assert len(lines) == (0 if is_measured else 1)
