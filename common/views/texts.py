"""Text after a question."""

from common.errors import DataError

IMAGE_PLACEHOLDER = "<image>"


def followed_by(problem: str, text: str, holder: str) -> str:
    """`problem`, followed by `text`.

    Args:
        holder: where `text` comes from, for the fix.

    Raises:
        DataError: `text` holds the image placeholder, so that two pictures would be asked for.
    """
    if IMAGE_PLACEHOLDER in text:
        fix = f"take it out of {holder}"
        raise DataError(f"the hint holds {IMAGE_PLACEHOLDER!r}: {text!r}. Fix: {fix}")
    return problem + text
