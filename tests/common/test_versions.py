"""What a process says of itself: cheap, without git, and another digest for other code."""

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from common import versions as module
from common.versions import code_digest, versions

ROOT = Path(__file__).resolve().parents[2]


def make_tree(root: Path) -> Path:
    for name in ("common/wire.py", "common/deep/er.py", "broker/ledger/ledger.py"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")
    return root


def test_versions_are_those_of_this_process() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["numpy"] == importlib.metadata.version("numpy")
    assert found["code"] == code_digest(ROOT) and len(found["code"]) == 16
    found["numpy"] = "changed"
    assert versions()["numpy"] != "changed"


def test_a_package_that_is_missing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    known = importlib.metadata.version

    def version(name: str) -> str:
        if name == "tokenizers":
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    module._found.cache_clear()
    try:
        assert "tokenizers" not in versions() and "pillow" in versions()
    finally:
        module._found.cache_clear()


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from common.versions import versions; versions(); "
        "print({'numpy', 'torch', 'transformers', 'PIL', 'torchvision'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout.strip() == "set()", ended.stderr


def test_the_digest_is_of_content_and_names_not_of_place(tmp_path: Path) -> None:
    first, second = make_tree(tmp_path / "a"), make_tree(tmp_path / "b")
    digest = code_digest(first)
    assert digest == code_digest(second)
    (second / "common" / "notes.txt").write_text("no code")
    (second / "learner").mkdir()
    (second / "learner" / "main.py").write_text("not shared")
    assert digest == code_digest(second)
    (second / "common" / "deep" / "er.py").write_text("# other\n")
    assert digest != code_digest(second)
    (first / "broker" / "ledger" / "ledger.py").rename(first / "broker" / "book.py")
    assert digest != code_digest(first)


def test_there_is_no_digest_without_sources(tmp_path: Path) -> None:
    assert code_digest(tmp_path) is None
