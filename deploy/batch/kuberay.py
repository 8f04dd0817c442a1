"""A manifest for KubeRay: a RayJob whose pods are the pools of a run, and what it needs around it.

Made for KubeRay 1.7, images of deploy/docker, and one volume that every pod sees at the same place:
it holds data, models and run folders. KubeRay makes the Secret with Ray's token by itself.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from common.config import RunConfig
from common.config_cli import dump_toml
from common.errors import ConfigError
from deploy.batch.kuberay_pods import CLAIM, IMAGE_ROOT, VOLUME, network_policy, ray_job
from deploy.cluster.environments import pool_section
from deploy.cluster.process_specs import ROOT

_CLAIM_SIZE = "500Gi"
_MAX_NAME = 47  # KubeRay's limit for a RayJob
_ON_VOLUME = (
    "run.folder",
    "data.train",
    "data.heldout",
    "broker.keys",
    "sglang.api_key_file",
    "weights.folder",
)


def manifest(config: RunConfig, arguments: Sequence[str]) -> str:
    """YAML for `kubectl apply -f -`: volume claim, configuration, network policy, RayJob.

    The configuration travels whole, as a ConfigMap. Pools without labels are given `pool=NAME`, so
    that processes come to the pods with their image.

    Args:
        arguments: what a person said to the launcher, told in a comment so that it can be said
            again; the configuration is what they mean.

    Raises:
        ConfigError: a pool has no image, a label is none for Kubernetes, or a path is not on the
            volume.
    """
    config = _for_pods(config)
    name = _resource_name(config.run.name)
    documents = [
        _claim(), _config_map(name, config), network_policy(name), ray_job(name, config)
    ]  # fmt: skip
    # Whatever YAML or a person takes for the end of a line would end the comment.
    said = " ".join(shlex.join(["deploy/launch_cluster.sh", *arguments]).splitlines())
    text = yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return f"# Made by: {said}\n{text}"


def _for_pods(config: RunConfig) -> RunConfig:
    """The configuration as the pods read it."""
    folder = config.run.folder or Path(VOLUME / "runs" / _resource_name(config.run.name))
    changes: dict[str, dict[str, Any]] = {
        "run": {"folder": folder, "resume": False},
        "cluster": {"address": None},
    }
    for name in ("broker", "rollout", "learner"):
        pool = pool_section(name, config)
        changes[f"{name}_pool"] = {"labels": pool.labels or (f"pool={name}",)}
    if Path(config.model.path).is_relative_to(ROOT / "deploy"):  # the quickstart's checkpoint
        changes["model"] = {"path": str(IMAGE_ROOT / Path(config.model.path).relative_to(ROOT))}
    config = config.changed(**changes)
    _check_paths(config)
    return config


def _check_paths(config: RunConfig) -> None:
    for key in _ON_VOLUME:
        section, _, field = key.partition(".")
        path = getattr(getattr(config, section), field)
        if path is not None and not _is_in(path, VOLUME):
            raise ConfigError(
                f"{key} = {str(path)!r} is not on the volume that pods see at {VOLUME}. Fix: put "
                f"it there, and say --{key} {VOLUME}/..."
            )
    for key in ("model.path", "teacher.path"):
        section, _, field = key.partition(".")
        text = getattr(getattr(config, section), field)
        is_path = bool(text) and text.startswith("/")
        if is_path and not (_is_in(text, VOLUME) or _is_in(text, IMAGE_ROOT)):
            raise ConfigError(
                f"{key} = {text!r} is not on the volume that pods see at {VOLUME}. Fix: put it "
                f"there, or give its name on the Hugging Face hub"
            )
    if not re.fullmatch(r"[\w./-]+", str(config.run.folder), re.ASCII):
        raise ConfigError(
            f"run.folder = {str(config.run.folder)!r}: KubeRay's entrypoint takes letters, digits "
            "and ./_- alone. Fix: --run.folder with another name"
        )


def _is_in(path: Path | str, folder: PurePosixPath) -> bool:
    """Whether it is in that folder whatever links there are: no `..` may lead out of it."""
    pure = PurePosixPath(path)
    return pure.is_relative_to(folder) and ".." not in pure.parts


def _claim() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": _CLAIM_SIZE}},
        },
    }


def _config_map(name: str, config: RunConfig) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {"config.toml": dump_toml(config)},
    }


def _resource_name(name: str) -> str:
    """The name as Kubernetes takes names: lower case, a letter first."""
    text = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    text = text if text[:1].isalpha() else f"run-{text}"
    return text[:_MAX_NAME].strip("-")


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # yaml has no types here
    """Writes texts of several lines as such, and equal values without references."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> Any:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
