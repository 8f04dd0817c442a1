"""Texts that end a response: where they are found, and what of the text is then the answer."""

from collections.abc import Sequence
from typing import Any

from rollout.embedded.sampler import Sequence as Response
from rollout.embedded.token_texts import GrowingText


class StopStrings:
    """Ends responses whose text holds a stop string. To be called after every step."""

    def __init__(
        self,
        stops: Sequence[str],
        responses: Sequence[Response],
        tokenizer: Any,
        skip_special: bool,
    ) -> None:
        self._stops = stops
        self._longest = max(map(len, stops))
        self._watched = [[each, GrowingText(tokenizer, skip_special), ""] for each in responses]

    def __call__(self) -> None:
        for watched in self._watched:
            response, text, tail = watched
            if response.finish_reason is not None:
                continue
            seen = tail + text.grown(response.token_ids)
            watched[2] = seen[max(0, len(seen) - self._longest + 1) :]
            found = next((stop for stop in self._stops if stop in seen), None)
            if found is not None:
                response.finish_reason = {"type": "stop", "matched": found}


def answer_of(text: str, response: Response) -> str:
    """The text before the stop string that ended a response; all of it when none did."""
    matched = (response.finish_reason or {}).get("matched")
    return text.partition(matched)[0] if isinstance(matched, str) else text


def num_settled(text: str, stops: Sequence[str]) -> int:
    """So many characters are the answer's whatever comes: the rest may begin a stop string."""
    beginnings = [stop[:end] for stop in stops for end in range(1, len(stop))]
    return len(text) - max((len(b) for b in beginnings if text.endswith(b)), default=0)
