"""The full picture, and the reference answer in the text (OPSD, arXiv 2601.18734).

SHOWS A LABEL to the teacher. Only this view does so; the method proper does not.
"""

from common.errors import DataError
from common.types import Sample
from common.views.settings import ViewSettings
from common.views.texts import followed_by
from common.views.view import View


class AnswerHint(View):
    roles = frozenset({"teacher"})
    shows_answer = True

    def text(self, problem: str, sample: Sample, settings: ViewSettings, answer: str | None) -> str:
        if answer is None:
            raise DataError(f"sample {sample.sample_id}: no answer to be shown to the teacher")
        # Not str.format: braces in an answer stay as they are.
        hint = settings.answer_hint.replace("{answer}", answer)
        return followed_by(problem, hint, "the answer or of teacher.answer_hint")


VIEW = AnswerHint()
