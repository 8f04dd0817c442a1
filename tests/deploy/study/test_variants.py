from math import prod
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from deploy.study.study_file import NAME, StudyFile, StudySection, Value, VariantSection
from deploy.study.variants import baselines, variants_of

KEYS = ("broker.max_staleness", "optimizer.lr", "teacher.view", "model.path", "teacher.path")
VALUES: st.SearchStrategy[Value] = (
    st.integers(0, 9) | st.floats(0, 1) | st.sampled_from(["crop", "a/b"])
)
AXIS = st.lists(VALUES, min_size=1, max_size=4, unique_by=str).map(tuple)
GRIDS = st.dictionaries(st.sampled_from(KEYS), AXIS, max_size=3)
NAMES = st.lists(st.from_regex(NAME, fullmatch=True), unique=True, max_size=3)


def study(
    grid: dict[str, tuple[Value, ...]],
    names: list[str] | dict[str, VariantSection],
    baseline: str | dict[str, Value] | None = None,
) -> StudyFile:
    head = StudySection(name="s", config=Path("c.toml"), baseline=baseline)
    variants = names if isinstance(names, dict) else {name: VariantSection() for name in names}
    return StudyFile.model_construct(study=head, variants=variants, grid=grid)


@given(GRIDS, NAMES)
def test_a_grid_makes_every_combination_once(
    grid: dict[str, tuple[Value, ...]], names: list[str]
) -> None:
    found = variants_of(study(grid, names or ["only"]))
    assert len(found) == prod(map(len, grid.values())) * len(names or ["only"])
    assert len({variant.name for variant in found}) == len(found)
    assert len({(v.family, *map(str, v.overrides.values())) for v in found}) == len(found)
    for variant in found:
        assert variant.overrides.keys() == grid.keys()
        assert all(value in grid[key] for key, value in variant.overrides.items())
        assert "/" not in variant.name and " " not in variant.name
        assert not variant.name.startswith((".", "-"))


def test_names_come_in_order_and_say_what_varies() -> None:
    base = VariantSection(title="KL", overrides={"objective.divergence": "reverse_kl"})
    found = variants_of(
        study({"broker.max_staleness": (0, 4), "model.path": ("x/y",)}, {"kl": base})
    )
    assert [variant.name for variant in found] == [
        "kl+max_staleness=0+path=x-y",
        "kl+max_staleness=4+path=x-y",
    ]
    assert found[1].title == "KL, max_staleness 4, path x/y"
    assert found[1].overrides == {
        "objective.divergence": "reverse_kl",
        "broker.max_staleness": 4,
        "model.path": "x/y",
    }


def test_keys_that_end_alike_keep_their_sections() -> None:
    (found,) = variants_of(study({"model.path": ("a",), "teacher.path": ("b",)}, {}))
    assert found.name == "model.path=a+teacher.path=b"


def test_variants_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two variants would be called path=a-b"):
        variants_of(study({"model.path": ("a/b", "a-b")}, {}))


def test_the_first_variant_is_the_baseline_unless_another_is_named() -> None:
    for name, expected in ((None, "a"), ("b", "b")):
        asked = study({}, ["a", "b"], name)
        assert baselines(asked, variants_of(asked)) == {"a": expected, "b": expected}


def test_a_baseline_on_an_axis_has_the_other_values_of_its_variant() -> None:
    grid: dict[str, tuple[Value, ...]] = {"broker.max_staleness": (0, 1), "optimizer.lr": (1, 2)}
    asked = study(grid, ["a", "b"], {"broker.max_staleness": 0})
    found = baselines(asked, variants_of(asked))
    assert len(found) == 8
    for name, baseline in found.items():
        assert baseline == name.replace("max_staleness=1", "max_staleness=0")


@pytest.mark.parametrize(
    ("baseline", "told"),
    [
        ("c", "study.baseline = 'c': no such variant. Fix: use one of a.max_staleness=0"),
        ({"broker.max_staleness": 7}, "max_staleness = 7 is no value of .grid.. Fix: .*= 0, "),
        ({"broker.lease_s": 7}, "broker.lease_s = 7 is no value of .grid.. Fix: "),
    ],
)
def test_a_baseline_that_is_none_is_refused(baseline: str, told: str) -> None:
    asked = study({"broker.max_staleness": (0, 1)}, ["a"], baseline)
    with pytest.raises(ConfigError, match=told):
        baselines(asked, variants_of(asked))
