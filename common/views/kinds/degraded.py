"""The full picture made worse, for a student whose teacher sees it as it is (S2VOPD, 2608.14144).

No box is needed: any folder of pictures with questions is training data. One degradation is drawn
for each group, at a strength between half and all of student.degradation_strength. The size stays,
and so does the number of tokens.
"""

from PIL import Image

from common.types import Sample
from common.views.degradations import draw_degradation
from common.views.settings import ViewSettings
from common.views.view import View


class Degraded(View):
    roles = frozenset({"student"})
    is_seeded = True

    def picture(
        self, opened: Image.Image, sample: Sample, settings: ViewSettings, seed: int
    ) -> Image.Image:
        return draw_degradation(settings, seed).apply(opened)

    def note(self, settings: ViewSettings, seed: int) -> str:
        return str(draw_degradation(settings, seed))


VIEW = Degraded()
