"""The sentence about the red box, as the published set has it, and its rule for taking it out."""

# github.com/VisionOPD/Vision-OPD, scripts/prepare_data.py, REMOVE_HINT: the training questions of
# Vision-OPD-6K end in it, for student and teacher alike.
HINT = "Only focus on the objects inside the red bounding box in the image to answer this question."
_BEFORE = "\n\n"


def with_hint(question: str) -> str:
    return question if HINT in question else f"{question.rstrip()}{_BEFORE}{HINT}"


def without_hint(question: str) -> str:
    """`clean_question` of the published code, except that the picture's place stays."""
    return question.replace(_BEFORE + HINT, "").replace(HINT, "").strip()
