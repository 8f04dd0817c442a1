"""A model that decides what the rules leave undecided. Its verdicts are kept, and asked for once.

    RESULT/judge.jsonl    a verdict a line, by the digest of the judge's name and what it was asked

A judge that does not answer, or says neither yes nor no, leaves a reply undecided.
"""

import hashlib
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import EngineError
from rollout.evaluation.endpoint import ChatClient, chat_body
from rollout.evaluation.lines import GrowingLines, read_lines

logger = logging.getLogger(__name__)
FILE = "judge.jsonl"
MAX_TOKENS = 2048  # some judges think first
_SHOWN = 8000  # characters of a reply, its end: what it concludes
_FAILURES_IN_A_ROW = 10  # a judge is not asked any more after these
_VERDICT = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)
_PROMPT = """\
You grade a reply to a question about a picture, which you do not see.

Question:
{question}

Reference answer:
{answer}

Reply:
{reply}

Is the final answer of the reply the same as the reference answer? Other words and units for the \
same thing are the same. A reply that names no answer, or several, is not. Answer with one word: \
Yes or No."""


def judge_prompt(question: str, options: Sequence[tuple[str, str]], answer: str, reply: str) -> str:
    """What a judge is asked about one reply."""
    lines = [question, *(f"({letter}) {text}" for letter, text in options)]
    # In one go: a reply may hold braces.
    return _PROMPT.format(question="\n".join(lines), answer=answer, reply=reply[-_SHOWN:])


def verdict_in(text: str) -> bool | None:
    """Whether a judge says yes; None means neither yes nor no."""
    said = _VERDICT.match(text.rpartition("</think>")[2])
    return None if said is None else said[1].lower() == "yes"


def judge_identity(model: str) -> dict[str, Any]:
    """What of a judge is part of a result's identity."""
    digest = hashlib.sha256(_PROMPT.encode()).hexdigest()
    return {"model": model, "prompt_sha256": digest, "max_tokens": MAX_TOKENS}


class Judge(GrowingLines):
    """The verdicts of one model in one result.

    Args:
        client: asks it; None means that only kept verdicts count.

    Raises:
        ConfigError, DataError: as `GrowingLines`.
    """

    def __init__(self, folder: Path, model: str, client: ChatClient | None) -> None:
        self._model = model
        self._client = client
        super().__init__(folder / FILE)
        self._found = _verdicts(folder)
        self._failures = 0  # since it last answered

    async def is_right(self, prompt: str) -> bool | None:
        """The verdict on one reply, or None. Raises DataError: the disk fails."""
        key = hashlib.sha256(f"{self._model}\0{prompt}".encode(errors="replace")).hexdigest()
        if key not in self._found and self._client is not None and not self._is_given_up:
            await self._ask(key, prompt, self._client)
        return self._found.get(key)

    @property
    def _is_given_up(self) -> bool:
        return self._failures >= _FAILURES_IN_A_ROW

    async def _ask(self, key: str, prompt: str, client: ChatClient) -> None:
        try:
            answer = await client.ask(chat_body(self._model, prompt, None, max_tokens=MAX_TOKENS))
        except EngineError as error:
            self._failures += 1
            end = "; it is not asked any more" if self._is_given_up else ""
            logger.warning("the judge leaves a reply undecided: %s%s", error, end)
            return
        self._failures = 0
        verdict = verdict_in(answer.text)
        line = {"key": key, "model": self._model, "said": answer.text, "is_right": verdict}
        self.append(line)
        self._found[key] = verdict


def _verdicts(folder: Path) -> dict[str, bool | None]:
    return {
        str(line["key"]): line["is_right"]
        for line in read_lines(folder / FILE)
        if "key" in line and line.get("is_right") in (True, False, None)
    }
