"""Environments with another transformers, beside the one that the tests run in.

Only what differs is installed; torch, numpy and the rest are those of the running environment.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
_CACHE = ROOT / ".cache"
_COMPLETE = "complete"

PACKAGES = {
    "4.57.6": ("transformers==4.57.6", "tokenizers==0.22.2", "huggingface_hub==0.36.2"),
    "5.24.0": ("transformers==5.24.0", "tokenizers==0.23.3", "huggingface_hub==2.4.0"),
}


class Environment:
    """One that has the transformers of this version; made on the first use, then kept."""

    def __init__(self, version: str) -> None:
        self._folder = _CACHE / f"transformers-{version}"
        stamp = "\n".join((*PACKAGES[version], sys.version, _shared()))
        complete = self._folder / _COMPLETE
        if not complete.is_file() or complete.read_text() != stamp:
            _make(self._folder, PACKAGES[version])
            complete.write_text(stamp)

    def run(self, script: str, *arguments: str | Path) -> str:
        """The output of a script beside this file."""
        path = Path(__file__).with_name(script)
        command = [str(self._folder / "bin/python"), str(path), *map(str, arguments)]
        offline = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=170, env={**os.environ, **offline}
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def _make(folder: Path, packages: tuple[str, ...]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=100)
    install = [str(folder / "bin/python"), "-m", "pip", "install", "-q", "--no-deps", *packages]
    subprocess.run(install, check=True, timeout=600)
    (own,) = folder.glob("lib/python3*/site-packages")
    (own / "shared.pth").write_text(_shared() + "\n")  # comes after its own packages


def _shared() -> str:
    return sysconfig.get_path("purelib")
