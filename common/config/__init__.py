"""The one typed configuration tree. Its defaults are the published Vision-OPD run.

Frozen pydantic models, built once in each process's `main` and passed down by section. Reading
files and command lines is `common.config_cli`'s job.

    data, model, objective, learner, broker, rollout, weights, watching
                    the sections, each with the checks that it needs of others (CHECKS)
    tree            RunConfig: all sections, and all checks

A new key is a field in its section; the list of all keys is a file that a test compares
(tests/common/config_keys.txt). A key gets another name in `common.config_cli.RENAMED`.
"""

from common.config.broker import BrokerSection
from common.config.data import DataSection, RunSection
from common.config.learner import LearnerSection, OptimizerSection
from common.config.model import ModelSection, PromptSection
from common.config.objective import ObjectiveSection, StudentSection, TeacherSection
from common.config.rollout import RolloutSection
from common.config.tree import RunConfig
from common.config.watching import HealthSection
from common.config.weights import WeightsSection

__all__ = [
    "BrokerSection",
    "DataSection",
    "HealthSection",
    "LearnerSection",
    "ModelSection",
    "ObjectiveSection",
    "OptimizerSection",
    "PromptSection",
    "RolloutSection",
    "RunConfig",
    "RunSection",
    "StudentSection",
    "TeacherSection",
    "WeightsSection",
]
