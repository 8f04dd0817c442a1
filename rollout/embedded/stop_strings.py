"""Texts that end a response: where they are found, and what of the text is then the answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rollout.embedded.sampler import Sequence as Response
from rollout.embedded.token_texts import GrowingText


@dataclass
class _Watched:
    response: Response
    text: GrowingText
    tail: str = ""  # end of the text so far, in which a stop string may begin


class StopStrings:
    """A watch that ends responses whose text holds a stop string. Call it after every step.

    Args:
        stops: one or more, none of them empty; of those found at once the first one counts.
        tokenizer: transformers'.
        skips_special: their text is looked through without special tokens.
    """

    def __init__(
        self,
        stops: Sequence[str],
        responses: Sequence[Response],
        tokenizer: Any,
        skips_special: bool,
    ) -> None:
        self._stops = stops
        self._longest = max(map(len, stops))
        self._watched = [
            _Watched(each, GrowingText(tokenizer, skips_special)) for each in responses
        ]

    def __call__(self) -> None:
        for watched in self._watched:
            if watched.response.finish_reason is None:
                self._look(watched)

    def _look(self, watched: _Watched) -> None:
        seen = watched.tail + watched.text.grown(watched.response.token_ids)
        watched.tail = seen[max(0, len(seen) - self._longest + 1) :]
        found = next((stop for stop in self._stops if stop in seen), None)
        if found is not None:
            watched.response.finish_reason = {"type": "stop", "matched": found}


def answer_of(text: str, response: Response) -> str:
    """The text before the stop string that ended a response; all of it when none did."""
    matched = (response.finish_reason or {}).get("matched")
    return text.partition(matched)[0] if isinstance(matched, str) else text


def num_settled(text: str, stops: Sequence[str]) -> int:
    """How many characters are surely the answer's: the rest may begin a stop string."""
    beginnings = [stop[:end] for stop in stops for end in range(1, len(stop))]
    return len(text) - max((len(b) for b in beginnings if text.endswith(b)), default=0)
