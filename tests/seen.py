"""What an engine was shown of a sample, where a test does not care."""

from common.types import ShownView

SEEN = ShownView(name="full", seed=0, note="", sha256="0" * 64)
