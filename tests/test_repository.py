"""Rules that hold for the repository as a whole."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {"broker", "common", "deploy", "learner", "rollout", "tests", "pyproject.toml"}
TOP_LEVEL |= {"LICENSE", "README.md", "findings"}
FORBIDDEN = {
    "pickle": r"^\s*(import|from) (pickle|cloudpickle|dill|shelve)\b",
    "pickled tensors": r"weights_only\s*=\s*False",
    "pickled messages": r"\b(send|recv)_pyobj\b",
    "code from a model hub": r"trust_remote_code\s*=\s*True",
    "a path of one machine": r"(?<![\w.$}/])/(root|home|work|Users)/",
    "a package index": r"https?://[^\s\"']*(pypi\.|/simple\b|/whl\b)",
}


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def texts() -> list[tuple[Path, str]]:
    found = []
    for path in tracked_files():
        try:
            found.append((path.relative_to(ROOT), path.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            continue
    return found


@pytest.mark.parametrize("reason", FORBIDDEN)
def test_nothing_forbidden_is_in_the_repository(reason: str) -> None:
    pattern = re.compile(FORBIDDEN[reason], re.MULTILINE)
    offenders = [
        f"{path}: {match.group().strip()}"
        for path, text in texts()
        if path != Path(__file__).relative_to(ROOT)
        for match in pattern.finditer(text)
    ]
    assert offenders == []


def test_the_top_level_is_the_agreed_one() -> None:
    names = {path.relative_to(ROOT).parts[0] for path in tracked_files()}
    assert {name for name in names if not name.startswith(".")} == TOP_LEVEL


def test_no_file_is_large() -> None:
    assert [str(p) for p in tracked_files() if p.stat().st_size > 3_000_000] == []
    assert sum(p.stat().st_size for p in (ROOT / "deploy/quickstart/checkpoint").iterdir()) < 5e6


def test_our_packages_come_from_this_checkout() -> None:
    import broker
    import common
    import deploy
    import learner
    import rollout

    for package in (broker, common, deploy, learner, rollout):
        assert package.__file__ is not None
        assert Path(package.__file__).parent.parent == ROOT
