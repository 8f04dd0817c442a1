"""What engines declare, and that nothing else names them. Holds common/engines/."""

import importlib
import re
from pathlib import Path
from pkgutil import iter_modules

import pytest

from common import engines
from common.config_cli import build
from common.engines import ENGINES, engine_of, own_environment
from common.engines.kind import EngineKind
from common.errors import ConfigError

PREFIX = "common.engines."
ROOT = Path(__file__).resolve().parents[3]
COMPARED = re.compile(rf"""(?:[!=]=|\bin) *[({{\[]?["'](?:{"|".join(ENGINES)})["']""")


def test_the_configuration_takes_each_engine_and_no_other() -> None:
    for name, kind in ENGINES.items():
        assert engine_of(build({"rollout": {"engine": name}})) is kind
    with pytest.raises(ConfigError, match=r"rollout\.engine = 'sglnag'.*Fix: "):
        build({"rollout": {"engine": "sglnag"}})


def test_every_engine_of_the_package_is_registered() -> None:
    modules = [importlib.import_module(m.name) for m in iter_modules(engines.__path__, PREFIX)]
    declared = {id(v): v for m in modules for v in vars(m).values() if isinstance(v, EngineKind)}
    assert sorted(kind.name for kind in declared.values()) == sorted(ENGINES)
    assert all(ENGINES[name].name == name for name in ENGINES)


@pytest.mark.parametrize("kind", ENGINES.values(), ids=lambda kind: kind.name)
def test_an_engine_of_an_environment_of_its_own_has_a_key_for_it(kind) -> None:
    if kind.own is None:
        return
    section, _, key = kind.own.key.partition(".")
    config = build({"rollout": {"engine": kind.name}, section: {key: "/no/such/python"}})
    assert kind.own.named(config) == Path("/no/such/python")
    assert own_environment(config) is kind.own
    with pytest.raises(ConfigError, match=rf"^{kind.own.key} = .*deploy/setup\.sh {kind.own.goal}"):
        kind.own.find_python(config)


def test_servers_that_attach_to_running_engines_need_no_environment() -> None:
    assert own_environment(build({"rollout": {"engine_urls": ["http://a:1"]}})) is None
    assert own_environment(build({"rollout": {"engine": "embedded"}})) is None


def test_no_other_code_asks_which_engine_it_is() -> None:
    """A comparison with a name would leave out an engine that is added."""
    packages = ("broker", "common", "deploy", "learner", "rollout")
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in files
        if not path.is_relative_to(ROOT / "common" / "engines")
        for line in path.read_text(encoding="utf-8").splitlines()
        if COMPARED.search(line)
    ]
    assert found == []
