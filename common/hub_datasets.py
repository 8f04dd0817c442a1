"""Files of a dataset on the Hugging Face hub: those of one commit, every hash checked.

Downloads go on where they were cut, and show progress on a terminal; HF_ENDPOINT, HF_HOME and
HF_TOKEN are honoured, as by every tool of the hub.
"""

import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from common.errors import ConfigError


def dataset_snapshot(name: str, revision: str | None, patterns: Sequence[str]) -> tuple[Path, str]:
    """The folder with a dataset's files in the hub's cache, and the commit that they are of.

    Args:
        revision: commit, branch or tag; None means the default branch.
        patterns: names of the wanted files, in `fnmatch`'s form.

    Raises:
        ConfigError: no such dataset or revision, the hub cannot be reached, the disk is full, or a
            file is not what the hub says it is.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        # Without a hub this call ends at once; a download would try for half a minute.
        commit = str(HfApi().dataset_info(name, revision=revision).sha)
        folder = Path(
            snapshot_download(
                name, repo_type="dataset", revision=commit, allow_patterns=list(patterns)
            )
        )
        wrong = _differing(HfApi(), name, commit, patterns)
    except Exception as error:  # the client's transport has bases of its own in each version
        raise _refusal(name, revision, error) from error
    if wrong:
        for path in wrong:
            (folder / path).resolve().unlink(missing_ok=True)
        raise ConfigError(
            f"dataset {name}: {', '.join(wrong[:3])} was not downloaded as the hub says it is, and "
            "was removed. Fix: start again; what is good is kept"
        )
    return folder, commit


def _differing(api: Any, name: str, commit: str, patterns: Sequence[str]) -> list[str]:
    """Files of other content than the hub says, or missing."""
    found = api.verify_repo_checksums(name, repo_type="dataset", revision=commit)
    bad = [*(mismatch["path"] for mismatch in found.mismatches), *found.missing_paths]
    return [path for path in bad if any(fnmatch(path, pattern) for pattern in patterns)]


def _refusal(name: str, revision: str | None, error: Exception) -> ConfigError:
    from huggingface_hub import constants, errors

    where = f"dataset {name!r} on the hub ({constants.ENDPOINT})"
    if isinstance(error, errors.RevisionNotFoundError):
        return ConfigError(f"{where} has no revision {revision!r}. Fix: name one that it has")
    if isinstance(error, errors.GatedRepoError):
        return ConfigError(f"{where} is gated. Fix: accept its terms there, then hf auth login")
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return ConfigError(
            f"{where} is not shown: it does not exist, or is private. Fix: correct its name, or "
            "hf auth login"
        )
    if isinstance(error, OSError) and error.errno is not None:  # the disk, not the network
        return ConfigError(
            f"{where} cannot be kept in the hub's cache: {error}. Fix: make room, or set HF_HOME"
        )
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return ConfigError(
        f"{where} cannot be downloaded: {reason}. Fix: start again, and the download goes on; or "
        f"hf download --repo-type dataset {name} where there is a network, and name that folder"
    )
