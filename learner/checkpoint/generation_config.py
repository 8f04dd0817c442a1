"""generation_config.json: it names every token that ended a response in training."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from common.end_tokens import end_token_ids
from learner.checkpoint.side_files import GENERATION_CONFIG, parse_json

_EOS = "eos_token_id"


def with_end_tokens(files: Mapping[str, bytes], ids: Sequence[int]) -> dict[str, bytes]:
    """Files of a Hugging Face folder whose generation config names exactly `ids`.

    Those that it names already stay first: readers take the first one for padding. Nothing is
    written where it names them all, or where there are none.

    Raises:
        ValueError: the file is no JSON object.
    """
    old = _read(files.get(GENERATION_CONFIG))
    named = old.get(_EOS)
    if not ids or end_token_ids(named) == sorted(ids):
        return dict(files)
    first = [named] if isinstance(named, int) else list(named or ())
    ordered = [token for token in dict.fromkeys((*first, *sorted(ids))) if token in ids]
    new = {**old, _EOS: ordered[0] if len(ordered) == 1 else ordered}
    return {**files, GENERATION_CONFIG: (json.dumps(new, indent=2) + "\n").encode()}


def _read(content: bytes | None) -> dict[str, Any]:
    document = parse_json(GENERATION_CONFIG, content or b"{}")
    if not isinstance(document, dict):
        raise ValueError(f"{GENERATION_CONFIG} is no JSON object")
    return document
