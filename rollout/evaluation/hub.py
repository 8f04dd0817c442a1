"""The folders that hold a set's files: copies at hand, or downloaded from the hub at one commit."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common.errors import ConfigError, DataError

_TIMEOUT_S = 30.0  # time-out of a question to the hub


@dataclass(frozen=True)
class Repository:
    """A data set on the hub."""

    name: str
    files: tuple[str, ...]  # patterns of paths in it; each must match
    revision: str | None = None  # commit; None means the newest when it is downloaded
    folder: str = ""  # its folder in a copy of a set with several repositories


def located(
    set_name: str, repositories: Sequence[Repository], source: Path | None
) -> tuple[list[Path], str | None]:
    """A folder for each repository, and their commits; None means that a copy does not tell.

    Raises:
        ConfigError: the hub cannot be reached, or refuses.
        DataError: a file is missing.
    """
    if source is not None:
        folders = [source / repository.folder for repository in repositories]
    else:
        folders = [_downloaded(set_name, repository) for repository in repositories]
    for repository, folder in zip(repositories, folders, strict=True):
        for pattern in repository.files:
            matching(folder, pattern)
    commits = ", ".join(folder.name for folder in folders) if source is None else ""
    return folders, commits or None


def matching(folder: Path, pattern: str) -> list[Path]:
    """The files of a pattern, by name. Raises DataError where there is none."""
    found = sorted(folder.glob(pattern))
    if not found:
        raise DataError(
            f"{folder}: no file {pattern}. Fix: name the folder that holds the files of the set as "
            "they lie on the hub, or leave it out, so that they are downloaded"
        )
    return found


def _downloaded(set_name: str, repository: Repository) -> Path:
    """The folder of a snapshot; its name is the commit."""
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        return Path(_snapshot(repository))
    except Exception as error:  # the client's transport has bases of its own in each version
        revision = f" --revision {repository.revision}" if repository.revision else ""
        raise ConfigError(
            f"set {set_name}: {repository.name} cannot be downloaded ({_reason(error)}). Fix: run "
            f"hf download --repo-type dataset {repository.name}{revision} where there is a network "
            "(hf auth login, if its owner must let you in) and name the folder that it prints, or "
            "set HF_ENDPOINT to a mirror"
        ) from error


def _snapshot(repository: Repository) -> str:
    """Without a network the copy in the cache; whether it is whole the count of rows tells."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    fetch = partial(
        snapshot_download,
        repository.name,
        repo_type="dataset",
        revision=repository.revision,
        allow_patterns=list(repository.files),
    )
    try:  # ends at once where no hub is; the download of a commit would try for half a minute
        HfApi().dataset_info(repository.name, revision=repository.revision, timeout=_TIMEOUT_S)
    except HfHubHTTPError:  # the hub refuses
        raise
    except Exception as error:  # see above
        try:
            return fetch(local_files_only=True)
        except LocalEntryNotFoundError:
            raise error from None
    return fetch()


def _reason(error: Exception) -> str:
    """The message of a refusal, else of the deepest cause: the client wraps it in its advice."""
    from huggingface_hub.errors import HfHubHTTPError

    while isinstance(error.__cause__, Exception) and not isinstance(error, HfHubHTTPError):
        error = error.__cause__
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
