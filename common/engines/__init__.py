"""Engines: what differs from one to the next, a file each; nothing else asks which one it is.

    kind        what an engine declares, and what a Python environment of its own is
    sglang, embedded    the engines
    packages    what such an environment has for GPUs, looked at before a model is loaded
    keys        the key of an engine's HTTP port

    ENGINES[rollout.engine] -> EngineKind       by whom it is read
      name                                      common.config, common.versions, rollout.evaluation
      title                                     deploy.preflight, messages of this package
      command, environment, check               rollout.engine_process, deploy.preflight
      serving_flags, check_folder               rollout.serving_checkpoint
      own                                       deploy.cluster, deploy.batch, deploy.launch
      context_limit                             deploy.preflight
      is_deterministic                          common.config
      keeps_copies                              deploy.planning
      server_gpus                               common.cluster_config, deploy.planning

To add one:

1. It has to speak the part of SGLang's HTTP API that `rollout.http_engine` uses.
2. Write common/engines/NAME.py with an `EngineKind`, and put it into `ENGINES` here. Every field
   without a default must be given: mypy says which one is missing. What it needs of the
   configuration is a section of its own, as `sglang` is.
3. If it needs packages that ours cannot have beside them, declare `own`, and give
   deploy/setup.sh the goal that makes it: tests/deploy/test_setup.py asks for each engine's.
4. tests/rollout/contract takes the engines from here. That suite is the specification.

No test tells of the following, which still fits SGLang alone: the marker of its contract tests
(tests/rollout/contract/conftest.py), the image in deploy/docker, the key of any engine's port
(`sglang.api_key_file`), and deploy.planning, which counts a server's memory as SGLang divides it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from common.engines.embedded import EMBEDDED
from common.engines.kind import EngineKind, OwnEnvironment
from common.engines.sglang import SGLANG

ENGINES: Mapping[str, EngineKind] = {kind.name: kind for kind in (SGLANG, EMBEDDED)}
if TYPE_CHECKING:
    from common.config import RunConfig

    EngineName = str
else:
    EngineName = Literal[*ENGINES]  # the values that rollout.engine may have


def engine_of(config: "RunConfig") -> EngineKind:
    return ENGINES[config.rollout.engine]


def own_environment(config: "RunConfig") -> OwnEnvironment | None:
    """The environment in which rollout servers start engines.

    None means that they start none (rollout.engine_urls), or start it in ours.
    """
    return None if config.rollout.engine_urls else engine_of(config).own
