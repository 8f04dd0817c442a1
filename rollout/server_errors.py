"""What an HTTP server says is wrong, in one line."""

import json
from collections.abc import Sequence


def said(content: bytes, keys: Sequence[str], most: int) -> str:
    """What an HTTP server's answer says is wrong, in one line.

    Args:
        content: the answer's body: JSON, in which the first of `keys` leads to the message, or to
            an object with the message; else plain text.
        most: limit of characters.
    """
    try:
        body = json.loads(content)
    except ValueError:
        body = content.decode(errors="replace")
    while isinstance(body, dict):
        body = next((body[key] for key in keys if key in body), json.dumps(body))
    return " ".join(str(body).split())[:most]
