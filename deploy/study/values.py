"""A value of a configuration key as TOML has it, and as a word of a command line."""

Scalar = bool | int | float | str
Value = Scalar | tuple[Scalar, ...]


def word(value: Value) -> str:
    """The value as `--section.key WORD` takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(word, value)) if isinstance(value, tuple) else str(value)
