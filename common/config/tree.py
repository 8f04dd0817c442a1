"""The whole configuration of a run: all sections, and the checks between them."""

from collections.abc import Mapping
from typing import Self

from pydantic import model_validator

from common import cluster_config
from common.cluster_config import ClusterSection, PoolSection
from common.config import learner, objective, rollout, watching, weights
from common.config.broker import BrokerSection
from common.config.data import DataSection, RunSection
from common.config.learner import CheckpointSection, LearnerSection, OptimizerSection
from common.config.model import ModelSection, PromptSection
from common.config.objective import ObjectiveSection, StudentSection, TeacherSection
from common.config.rollout import RolloutSection, SglangSection
from common.config.watching import EvaluationSection, HealthSection, ScrapeSection
from common.config.weights import WeightsSection
from common.section import Section

CHECKS = (  # each raises ValueError where two sections do not fit together
    *watching.CHECKS,
    *learner.CHECKS,
    *cluster_config.CHECKS,
    *objective.CHECKS,
    *rollout.CHECKS,
    *weights.CHECKS,
)


class RunConfig(Section):
    """Everything that one run is made of."""

    run: RunSection = RunSection()
    model: ModelSection = ModelSection()
    prompt: PromptSection = PromptSection()
    data: DataSection = DataSection()
    broker: BrokerSection = BrokerSection()
    rollout: RolloutSection = RolloutSection()
    sglang: SglangSection = SglangSection()
    objective: ObjectiveSection = ObjectiveSection()
    student: StudentSection = StudentSection()
    teacher: TeacherSection = TeacherSection()
    optimizer: OptimizerSection = OptimizerSection()
    learner: LearnerSection = LearnerSection()
    weights: WeightsSection = WeightsSection()
    checkpoint: CheckpointSection = CheckpointSection()
    health: HealthSection = HealthSection()
    evaluation: EvaluationSection = EvaluationSection()
    scrape: ScrapeSection = ScrapeSection()
    cluster: ClusterSection = ClusterSection()
    broker_pool: PoolSection = PoolSection()
    rollout_pool: PoolSection = PoolSection()
    learner_pool: PoolSection = PoolSection()

    def changed(self, **sections: Mapping[str, object]) -> Self:
        """The same but for these values, by section and key. They are not checked."""
        update = {name: getattr(self, name).model_copy(update=v) for name, v in sections.items()}
        return self.model_copy(update=update)

    @model_validator(mode="after")
    def _sections_fit_together(self) -> Self:
        for check in CHECKS:
            check(self)
        return self
