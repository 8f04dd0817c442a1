"""Names on the hub: the real client, a cache in the hub's layout, a hub on loopback."""

from pathlib import Path

import pytest

from common.config_cli import build
from common.errors import ConfigError
from common.model_folder import local_model, with_local_models, with_pinned_models
from tests.common.hub import COMMIT, NAME, asked, serving_hub, snapshot_in_cache
from tests.tiny_model import make_tiny_checkpoint

RESOLVE = """
import sys
from common.errors import ConfigError
from common.model_folder import Use, local_model
name, revision, weights = sys.argv[1:]
try:
    found = local_model(name, revision or None, use=Use(weights=bool(weights)))
    print(*found, sep="\\n")
except ConfigError as error:
    sys.exit(f"{error}")
"""
CONFIGS = """
import sys
from common.config_cli import build
from common.model_folder import with_local_models, with_pinned_models
name = sys.argv[1]
teacher = {"policy": "fixed", "path": name}
config = build({"model": {"path": name}, "teacher": teacher})
pinned = with_pinned_models(config)
local = with_local_models(pinned)
for found in (pinned, local):
    for part in (found.model, found.teacher):
        print(part.path, part.revision)
"""
CLOSED = "http://127.0.0.1:1"  # nobody listens there


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")
    (made / "pytorch_model.bin").write_bytes(b"pickled")
    (made / "modeling.py").write_text("raise SystemExit")
    return made


def resolve(
    home: Path, name: str, revision: str = "", weights: bool = True, **environment: str
) -> tuple[int, str]:
    """Exit code, and what was printed on whichever stream."""
    done = asked(home, RESOLVE, name, revision, "1" if weights else "", **environment)
    return done.returncode, done.stderr.strip() if done.returncode else done.stdout.strip()


def test_a_folder_stays_as_it_is(folder: Path) -> None:
    assert local_model(str(folder), None) == (str(folder), None)
    config = build({"model": {"path": str(folder)}})
    assert with_local_models(config) == with_pinned_models(config) == config


@pytest.mark.parametrize(
    "path", ["/nowhere", "./nowhere", "../no", "~/models/x", "a/b/c", "two words", "ends/", "a..b"]
)
def test_what_can_be_no_name_is_no_folder_at_once(path: str) -> None:
    with pytest.raises(ConfigError, match=r"^model.path = '.*' is no folder here. Fix: name a"):
        local_model(path, None)


def test_a_name_in_the_cache_needs_no_network(tmp_path: Path, folder: Path) -> None:
    snapshot = snapshot_in_cache(tmp_path, folder)
    expected = (0, f"{snapshot}\n{COMMIT}")
    for revision in ("", COMMIT):
        assert resolve(tmp_path, NAME, revision, HF_HUB_OFFLINE="1") == expected
    assert resolve(tmp_path, NAME, "main", HF_ENDPOINT=CLOSED) == expected


@pytest.mark.parametrize(
    ("environment", "why"),
    [({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"), ({"HF_ENDPOINT": CLOSED}, "refused")],
)
def test_no_hub_and_no_copy_is_one_line_that_says_what_to_do(
    tmp_path: Path, environment: dict[str, str], why: str
) -> None:
    code, told = resolve(tmp_path, NAME, COMMIT, **environment)
    assert code == 1 and len(told.splitlines()) == 1
    assert told.startswith(f"model.path = '{NAME}' is no folder here, the hub (")
    assert why in told and str(tmp_path / "hub") in told
    assert "Fix: name a folder; or run" in told
    assert f"hf download {NAME} --revision {COMMIT}" in told
    assert "HF_HOME" in told and "HF_ENDPOINT" in told


def test_a_copy_that_lacks_a_weight_file_is_named(tmp_path: Path, folder: Path) -> None:
    snapshot = snapshot_in_cache(tmp_path, folder)
    (snapshot / "pytorch_model.bin").unlink()
    (snapshot / "model.safetensors").resolve().unlink()
    code, told = resolve(tmp_path, NAME, HF_HUB_OFFLINE="1")
    assert code == 1 and len(told.splitlines()) == 1
    assert told.startswith(f"model.path = '{NAME}' (copy in {snapshot}) has no weights: ")
    code, told = resolve(tmp_path, NAME, COMMIT, HF_HUB_OFFLINE="1")
    assert code == 1 and "holds no whole copy" in told
    with serving_hub(folder) as hub:  # what was broken off is made whole
        assert resolve(tmp_path, NAME, COMMIT, HF_ENDPOINT=hub.url)[0] == 0


def test_a_name_is_downloaded_once_without_code_or_pickles(tmp_path: Path, folder: Path) -> None:
    with serving_hub(folder) as hub:
        code, found = resolve(tmp_path, NAME, HF_ENDPOINT=hub.url)
        assert code == 0, found
        snapshot, commit = found.splitlines()
        assert commit == COMMIT and Path(snapshot).name == COMMIT
        assert Path(snapshot, "model.safetensors").is_symlink()
        names = {path.name for path in Path(snapshot).iterdir()}
        assert names == {p.name for p in folder.iterdir()} - {"pytorch_model.bin", "modeling.py"}
        assert set(hub.sent) == names
        hub.sent.clear()
        assert resolve(tmp_path, NAME, COMMIT, HF_ENDPOINT=hub.url) == (code, found)
        assert hub.sent == []
    assert resolve(tmp_path, NAME, COMMIT, HF_ENDPOINT=CLOSED) == (code, found)


def test_whoever_renders_prompts_alone_downloads_no_weights(tmp_path: Path, folder: Path) -> None:
    with serving_hub(folder) as hub:
        code, found = resolve(tmp_path, NAME, weights=False, HF_ENDPOINT=hub.url)
        assert code == 0, found
        assert "tokenizer.json" in hub.sent and "model.safetensors" not in hub.sent
        assert resolve(tmp_path, NAME, HF_ENDPOINT=hub.url)[0] == 0
        assert "model.safetensors" in hub.sent


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("Org/Unknown", "", "is no folder here, and the hub (http://127.0.0.1"),
        ("Secret/Model", "", "is gated"),
        (NAME, "no-such-branch", "has no revision 'no-such-branch'. Fix: set model.revision"),
    ],
)
def test_a_name_that_the_hub_refuses_is_one_line(
    tmp_path: Path, folder: Path, name: str, revision: str, message: str
) -> None:
    with serving_hub(folder) as hub:
        code, told = resolve(tmp_path, name, revision, HF_ENDPOINT=hub.url)
    assert code == 1 and len(told.splitlines()) == 1
    assert message in told and "Fix:" in told


def test_the_launcher_keeps_names_and_pins_commits_and_processes_get_folders(
    tmp_path: Path, folder: Path
) -> None:
    snapshot = snapshot_in_cache(tmp_path, folder)
    done = asked(tmp_path, CONFIGS, NAME, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{NAME} {COMMIT}"] * 2 + [f"{snapshot} {COMMIT}"] * 2
