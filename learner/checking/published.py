"""The published step, written plainly: what `learner.trainer` is measured against."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from common.config import RunConfig
from common.image_text_model import ImageTextModel
from learner.micro_batches import fill_bins
from learner.model.packing import pack
from learner.model.student import response_hidden_states
from learner.model.teacher import Teacher
from learner.objective.divergence import DIVERGENCES, bucket_logprobs
from learner.trainer import DTYPES, Trainer
from learner.views.inputs import PreparedBatch, PreparedGroup, PromptView


class PublishedTrainer(Trainer):
    """Takes the same batches; `step` is the published one."""

    def __init__(self, config: RunConfig, model: ImageTextModel, total_steps: int) -> None:
        teacher = Teacher(model, config.teacher, DTYPES[config.model.dtype])
        super().__init__(config, model, teacher, total_steps)
        self._run = config
        self._compute = DTYPES[config.model.dtype]

    def published_step(self, batch: PreparedBatch) -> None:
        sequences = [
            (group, number) for group in batch.groups for number in range(len(group.responses))
        ]
        for part in fill_bins(sequences, _student_tokens, self._run.learner.student_batch_tokens):
            self._micro_batch(part, len(sequences)).backward()  # type: ignore[no-untyped-call]
        self.version += 1
        _, _, is_updated = self.optimizer.step(batch.step)
        if is_updated:
            self.teacher.update(batch.step)

    def _micro_batch(
        self, sequences: Sequence[tuple[PreparedGroup, int]], num_sequences: int
    ) -> Tensor:
        student_LV, predicting_N = self._logits(self.model, sequences, "student")
        with torch.no_grad():
            teacher_LV, predicting_of_teacher_N = self._logits(
                self.teacher.model, sequences, "teacher"
            )
            teacher_lse_L1 = teacher_LV.logsumexp(-1, keepdim=True)
        config = self._run.objective
        divergence = DIVERGENCES[config.divergence]
        assert config.top_k is not None and not divergence.is_sampled
        student_lse_L1 = student_LV.logsumexp(-1, keepdim=True)
        top = student_LV.topk(config.top_k, dim=-1)
        top_ids_NK = top.indices[predicting_N]
        student_NK = (top.values - student_lse_L1)[predicting_N]
        teacher_NK = (
            teacher_LV[predicting_of_teacher_N].gather(1, top_ids_NK)
            - teacher_lse_L1[predicting_of_teacher_N]
        )
        student_NB, teacher_NB = (bucket_logprobs(x, config.tail) for x in (student_NK, teacher_NK))
        divergence_N = divergence.value(student_NB, teacher_NB, config)
        lengths = torch.tensor([len(group.responses[n]) for group, n in sequences])
        shares_N = torch.repeat_interleave(1 / (lengths.float() * num_sequences), lengths)
        return (shares_N.to(divergence_N.device) * divergence_N).sum()

    def _logits(
        self, model: ImageTextModel, sequences: Sequence[tuple[PreparedGroup, int]], side: str
    ) -> tuple[Tensor, Tensor]:
        """float32 [L, V] of every position of the packed row, and where responses are predicted."""
        prompts: list[PromptView] = [getattr(group, side) for group, _ in sequences]
        row = pack(prompts, [[group.responses[n]] for group, n in sequences], share_prefix=False)
        row = row.to(self._device)
        everywhere_L = torch.arange(len(row.input_ids_L), device=self._device)
        whole = replace(
            row, layout=replace(row.layout, asked_M=everywhere_L), predicting_N=everywhere_L
        )
        hidden_LD = response_hidden_states(model, whole, self._compute)
        weight_VD = model.get_output_embeddings().weight.to(hidden_LD.dtype)
        logits_LV = functional.linear(hidden_LD, weight_VD).float()
        return logits_LV / self._run.rollout.temperature, row.places_N


def _student_tokens(sequence: tuple[PreparedGroup, int]) -> int:
    group, number = sequence
    return group.student.num_tokens + len(group.responses[number]) - 1
