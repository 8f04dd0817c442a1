"""What libraries leave in settings of the machine that wrote them. No export passes it on.

transformers has written, over the years, where a folder was loaded from (`_name_or_path`), whether
it was local (`is_local`, `local_files_only`), the hub's commit, and absolute paths of files
(`tokenizer_file`, `special_tokens_map_file`).
"""

import json
import re
from typing import Any

from learner.checkpoint.side_files import parse_json

_KEYS = {
    "_name_or_path", "name_or_path", "_commit_hash", "is_local", "local_files_only",
}  # fmt: skip
_VOCABULARIES = {"tokenizer.json", "vocab.json", "added_tokens.json"}
# Two names at least: "/think" is a token. Text over several lines is a template.
_ABSOLUTE = re.compile(r"(file://|~/|[A-Za-z]:\\|/[^/\s]+/)[^\n]*")


def without_local_traces(name: str, content: bytes) -> bytes:
    """A file's content; the very same bytes where there is nothing to take out.

    Args:
        name: says whether it is JSON, and no vocabulary: there nothing is a path, and a word may be
            spelt as one of the keys.

    Raises:
        ValueError: a JSON file is none.
    """
    if not name.endswith(".json") or name in _VOCABULARIES:
        return content
    document = parse_json(name, content)
    cleaned = _cleaned(document)
    if cleaned == document:
        return content
    return (json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n").encode()


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _cleaned(part) for key, part in value.items() if not _is_trace(key, part)}
    return [_cleaned(part) for part in value] if isinstance(value, list) else value


def _is_trace(key: str, value: Any) -> bool:
    if key in _KEYS:
        return True
    is_token = key in ("content", "token")
    return isinstance(value, str) and not is_token and bool(_ABSOLUTE.fullmatch(value))
