"""The list of all configuration keys: python -m tests.common.config_keys writes it anew."""

from pathlib import Path

from common.config import RunConfig
from common.config_cli import type_name, value_text

FILE = Path(__file__).with_suffix(".txt")


def key_list() -> str:
    """One line a key: its name, its type, its default."""
    lines = [
        f"{section}.{key}: {type_name(field.annotation)} = {value_text(field.default)!r}"
        for section, info in RunConfig.model_fields.items()
        for key, field in info.annotation.model_fields.items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(key_list(), encoding="utf-8")
