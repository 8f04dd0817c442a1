"""Which environment a process needs, and the command that makes it on its machine."""

import sys
from pathlib import Path

from common.cluster_config import PoolSection
from common.config import RunConfig
from common.engines import own_environment
from common.engines.kind import OwnEnvironment
from deploy.cluster.pools import PoolName
from deploy.cluster.process_specs import ROOT

SET_UP = "deploy/setup.sh"
_OURS = ROOT / ".venv" / "bin" / "python"


def set_up_command(
    pool: PoolName, config: RunConfig, launcher_python: str = sys.executable
) -> tuple[str, ...] | None:
    """What a machine must run, in the project's folder, before a process of the pool starts there.

    Quick where the environment is there already. None means nothing to make, because the pool
    names its Python, or the launcher runs on one that deploy/setup.sh did not make.

    Args:
        launcher_python: the interpreter that processes run on unless their pool names another.
    """
    if pool_section(pool, config).python is not None:
        return None
    is_ours = is_set_up_here(launcher_python)
    if pool == "rollout" and (own := environment_to_make(config)):
        return (SET_UP, *own.with_ours) if is_ours else (SET_UP, own.goal)
    if not is_ours:
        return None
    return (SET_UP, "rollout", "without-sglang") if pool == "rollout" else (SET_UP, pool)


def environment_to_make(config: RunConfig) -> OwnEnvironment | None:
    """The environment beside the code in which rollout servers start engines.

    None means that they start none, or in ours, or with a Python that the configuration names.
    """
    own = own_environment(config)
    return own if own and own.named(config) is None else None


def is_set_up_here(python: str | Path) -> bool:
    """Whether an interpreter is that of the environment which deploy/setup.sh makes."""
    return Path(python).absolute() == _OURS


def pool_section(pool: PoolName, config: RunConfig) -> PoolSection:
    section: PoolSection = getattr(config, f"{pool}_pool")
    return section
