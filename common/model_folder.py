"""Where a model's files are: a folder as it is, or a name on the hub, of which one commit is taken.

All processes of a run, and each resume, use the same commit: the launcher finds out which one it is
and writes it into the run's configuration (`with_pinned_models`); every process then works on the
folder that holds its files (`with_local_models`), so that nothing behind `main` sees a name.
"""

import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

from common.config import RunConfig
from common.errors import ConfigError
from common.model_files import ALL, Use, check_model_files

logger = logging.getLogger(__name__)
# No pickled weights and no code: neither is ever read.
_SETTINGS = ("*.json", "*.jinja", "*.txt", "*.model", "additional_chat_templates/*.jinja")
_WEIGHTS = ("*.safetensors",)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PATH_STARTS = ("/", "./", "../", "~")


def with_pinned_models(config: RunConfig) -> RunConfig:
    """Pin the models' names to the commits that they mean now. Downloads what is not here yet.

    Raises:
        ConfigError: as `local_model`.
    """
    return _with_models(config, is_local=False)


def with_local_models(config: RunConfig, has_weights: bool = True) -> RunConfig:
    """Put the folders that hold the models' files in place of their names.

    Args:
        has_weights: false where only prompts are rendered: weights are not downloaded.

    Raises:
        ConfigError: as `local_model`.
    """
    return _with_models(config, is_local=True, has_weights=has_weights)


def local_model(
    path: str, revision: str | None, key: str = "model.path", use: Use = ALL
) -> tuple[str, str | None]:
    """The folder of a model's files, checked, and the commit it is of; none for a folder.

    A name that is no folder here is asked for on the hub, and downloaded with progress on a
    terminal. What is in the hub's cache is not downloaded again; a commit that is there whole needs
    no network at all.

    Args:
        revision: commit, branch or tag; None means the hub's default branch.
        key: the configuration's key, for messages.

    Raises:
        ConfigError: no such folder or name, the hub cannot be reached, or no model to train.
    """
    if Path(path).exists() or not _can_be_a_name(path):
        check_model_files(Path(path), f"{key} = {path!r}", use)
        return path, None
    folder = _from_cache(path, revision, use) or _from_hub(path, revision, key, use)
    check_model_files(folder, f"{key} = {path!r} (copy in {folder})", use)
    return str(folder), folder.name


def _with_models(config: RunConfig, is_local: bool, has_weights: bool = True) -> RunConfig:
    uses = {"model": Use(weights=has_weights)}
    if config.teacher.traits.weights == "model" and has_weights:
        uses["teacher"] = Use(prompts=False)  # prompts are the student's
    changes: dict[str, Any] = {}
    for section, use in uses.items():
        fields = getattr(config, section)
        folder, commit = local_model(fields.path, fields.revision, f"{section}.path", use)
        if commit is None:
            continue
        logger.info("%s.path = %s is commit %s, in %s", section, fields.path, commit, folder)
        where = {"path": folder} if is_local else {}
        changes[section] = fields.model_copy(update={"revision": commit, **where})
    return config.model_copy(update=changes)


def _can_be_a_name(path: str) -> bool:
    """Whether it is ORGANISATION/NAME or NAME, as the hub has them."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if path.startswith(_PATH_STARTS) or path.endswith("/"):
        return False
    try:
        validate_repo_id(path)
    except HFValidationError:
        return False
    return True


def _from_cache(name: str, revision: str | None, use: Use) -> Path | None:
    """A commit that is here whole: it never changes, so the hub is not asked about it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not _COMMIT.fullmatch(revision or ""):
        return None
    try:
        found = snapshot_download(
            name, revision=revision, allow_patterns=_patterns(use), local_files_only=True
        )
        check_model_files(Path(found), name, use)
    except (LocalEntryNotFoundError, ConfigError):
        return None
    return Path(found)


def _from_hub(name: str, revision: str | None, key: str, use: Use) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    _show_progress_on_terminals_only()
    try:
        if _COMMIT.fullmatch(revision or ""):
            # To download a commit the client first lists its files, and tries for half a minute
            # where there is no hub; this call fails at once.
            HfApi().model_info(name, revision=revision)
        return Path(snapshot_download(name, revision=revision, allow_patterns=_patterns(use)))
    except Exception as error:  # the client's transport has bases of its own in each version
        raise _refusal(name, revision, key, error) from error


def _patterns(use: Use) -> list[str]:
    return [*_SETTINGS, *(_WEIGHTS if use.weights else ())]


def _show_progress_on_terminals_only() -> None:
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    if not sys.stderr.isatty():
        disable_progress_bars()


def _refusal(name: str, revision: str | None, key: str, error: Exception) -> ConfigError:
    """What went wrong, in words for the author of the configuration."""
    from huggingface_hub import errors

    where = f"{key} = {name!r}"
    key_of_revision = key.replace("path", "revision")
    fix_name = "Fix: name a folder, or a model that https://huggingface.co/models lists"
    if isinstance(error, errors.RevisionNotFoundError):
        return ConfigError(
            f"{where} has no revision {revision!r}. Fix: set {key_of_revision} to a commit, branch "
            "or tag of it, or leave it out"
        )
    if isinstance(error, errors.GatedRepoError):
        return ConfigError(
            f"{where} is gated: its owner must let you in. Fix: accept its terms on its page, then "
            "hf auth login (or HF_TOKEN) on each machine, or name a folder that holds it"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return ConfigError(
            f"{where} is no folder here, and the hub ({_endpoint()}) shows no such model: it does "
            f"not exist, or is private and needs hf auth login. {fix_name}"
        )
    if isinstance(error, OSError) and error.errno is not None:  # the disk, not the network
        return ConfigError(
            f"{where} cannot be kept in the hub's cache: {error}. Fix: make room, or set HF_HOME "
            "to a folder on another disk"
        )
    return _unreachable(name, revision, where, error)


def _unreachable(name: str, revision: str | None, where: str, error: Exception) -> ConfigError:
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    why = "HF_HUB_OFFLINE is set" if offline else " ".join(_reason(error).split())[:160]
    command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    return ConfigError(
        f"{where} is no folder here, the hub ({_endpoint()}) cannot be reached ({why}), and its "
        f"cache ({_cache()}) holds no whole copy. Fix: name a folder; or run {command} where there "
        "is a network and set HF_HOME to where that put it; or set HF_ENDPOINT to a mirror"
    )


def _reason(error: Exception) -> str:
    """The message of the deepest cause: the client wraps it in advice of its own."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _cache() -> str:
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)
