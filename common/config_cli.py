"""TOML file + `--section.key value` -> RunConfig, with errors that name key, value and fix."""

import difflib
import json
import logging
import sys
import tomllib
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from common.config import RunConfig
from common.errors import ConfigError
from common.output import ends_with_its_reader

logger = logging.getLogger(__name__)
RENAMED: dict[str, str] = {}  # "old.key": "new.key", kept for one version with a hint
USAGE = "[--config FILE] [--section.key value ...]"


def load_or_exit(argv: Sequence[str], program: str, purpose: str) -> RunConfig:
    """The configuration of a process; prints help or one line of error and exits otherwise."""
    if any(argument in ("-h", "--help") for argument in argv):
        with ends_with_its_reader():
            print(help_text(program, purpose))
        raise SystemExit(0)
    try:
        return load(argv)
    except ConfigError as error:
        exit_with(error)


def exit_with(error: ConfigError) -> NoReturn:
    print(f"config error: {error}", file=sys.stderr)
    raise SystemExit(2)


def load(argv: Sequence[str]) -> RunConfig:
    """The configuration named by command-line arguments; later ones win over earlier ones.

    Paths inside a TOML file are relative to that file, paths on the command line to the
    working folder.

    Raises:
        ConfigError: one line with the key, the value and the fix.
    """
    tree: dict[str, dict[str, Any]] = {}
    arguments = list(argv)
    while arguments:
        flag, value = _take_flag(arguments)
        if flag == "config":
            for section, fields in _read_toml(Path(value)).items():
                tree.setdefault(section, {}).update(fields)
        else:
            section, key = _split(flag)
            field = _field(section, key, where=f"--{flag}")
            tree.setdefault(section, {})[key] = _parse(value, field, f"--{flag}")
    return build(tree)


def build(tree: dict[str, dict[str, Any]]) -> RunConfig:
    """A validated configuration from nested plain values."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_first_problem(error)) from None


def dump_toml(config: RunConfig) -> str:
    """A TOML file that rebuilds `config`, every field written out, paths absolute."""
    lines: list[str] = []
    for section in RunConfig.model_fields:
        fields = getattr(config, section)
        lines += ["", f"[{section}]"]
        lines += [f"{key} = {_toml(getattr(fields, key))}" for key in type(fields).model_fields]
    return "\n".join(lines[1:]) + "\n"


def help_text(program: str, purpose: str) -> str:
    """Usage and every field with its type, default and unit."""
    lines = [f"usage: {program} {USAGE}", "", purpose]
    for section, info in RunConfig.model_fields.items():
        lines += ["", f"[{section}]"]
        for key, field in _section_type(info).model_fields.items():
            flag = f"  --{section}.{key} {type_name(field.annotation)}"
            lines.append(f"{flag:<58} {field.description} (default: {value_text(field.default)})")
    return "\n".join(lines)


def _take_flag(arguments: list[str]) -> tuple[str, str]:
    flag = arguments.pop(0)
    if not flag.startswith("--"):
        raise ConfigError(f"unexpected argument {flag!r}. Fix: use {USAGE}")
    name, separator, value = flag[2:].partition("=")
    if not separator:
        if not arguments:
            raise ConfigError(f"--{name} has no value. Fix: --{_with_value(name)}")
        value = arguments.pop(0)
    return name, value


def _with_value(name: str) -> str:
    """The option as it is to be written. Raises ConfigError if there is none."""
    if name == "config":
        return "config FILE"
    annotation = _field(*_split(name), where=f"--{name}").annotation
    return f"{name} {'true' if annotation is bool else type_name(annotation)}"


def _split(flag: str) -> tuple[str, str]:
    """Section and key of an option, as they are called now."""
    section, separator, key = flag.partition(".")
    if not separator:
        raise ConfigError(f"unknown option --{flag}. {_suggest_key(flag)}")
    return _renamed(section, key, where=f"--{flag}")


def _renamed(section: str, key: str, where: str) -> tuple[str, str]:
    """Section and key as they are called now; a hint if they were called otherwise."""
    old = f"{section}.{key}"
    new = RENAMED.get(old)
    if new is None:
        return section, key
    logger.warning("%s: %s is now %s; only this version takes the old name", where, old, new)
    section, _, key = new.partition(".")
    return section, key


def _suggest_key(word: str) -> str:
    """Keys of all sections that a word without a section may have meant."""
    keys = [
        (key, f"--{section}.{_written(key, field)}")
        for section, info in RunConfig.model_fields.items()
        for key, field in _section_type(info).model_fields.items()
    ]
    word = word.replace("-", "_")
    close = difflib.get_close_matches(word, [key for key, _ in keys], n=1, cutoff=0.7)
    if not close:
        return "Fix: options are --config and --section.key; --help lists them"
    return f"Fix: did you mean {' or '.join(flag for key, flag in keys if key == close[0])}?"


def _written(key: str, field: FieldInfo) -> str:
    return f"{key} true" if field.annotation is bool else key


def _section_type(info: FieldInfo) -> type[BaseModel]:
    annotation = info.annotation
    assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation


def _field(section: str, key: str, where: str) -> FieldInfo:
    sections = RunConfig.model_fields
    if section not in sections:
        raise ConfigError(f"{where}: unknown section [{section}]. {_suggest(section, sections)}")
    fields = _section_type(sections[section]).model_fields
    if key not in fields:
        names = {f"{section}.{name}": None for name in fields}
        raise ConfigError(
            f"{where}: unknown key {section}.{key}. {_suggest(f'{section}.{key}', names)}"
        )
    return fields[key]


def _suggest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"Fix: did you mean {close[0]}?" if close else f"Fix: use one of {', '.join(known)}"


def toml_of(path: Path, name: str, examples: str) -> dict[str, Any]:
    """Read a TOML file.

    Args:
        name: how errors call the file.
        examples: a folder with files of its kind.

    Raises:
        ConfigError: it is not there, or cannot be read.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{name}: no such file. Fix: see {examples}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{name}: {error}. Fix: correct the file") from None


def _read_toml(path: Path, extended_by: tuple[Path, ...] = ()) -> dict[str, dict[str, Any]]:
    """The file's sections, on top of those of the file that it `extends`."""
    if path in extended_by:
        raise ConfigError(f"--config {path} extends itself. Fix: break the circle")
    tree = toml_of(path, f"--config {path}", "deploy/configs/")
    base: dict[str, dict[str, Any]] = {}
    if "extends" in tree:
        base = _read_toml((path.parent / str(tree.pop("extends"))).resolve(), (*extended_by, path))
    for written, fields in tree.items():
        if not isinstance(fields, dict):
            raise ConfigError(f"{path}: {written} stands outside a section. Fix: [section] first")
        if not fields:
            base.setdefault(written, {})
        for name, value in fields.items():
            section, key = _renamed(written, name, where=str(path))
            if (section, key) != (written, name) and key in tree.get(section, {}):
                raise ConfigError(
                    f"{path}: {written}.{name} is now {section}.{key}, which stands there too. "
                    f"Fix: delete {written}.{name}"
                )
            field = _field(section, key, where=str(path))
            base.setdefault(section, {})[key] = _from_toml(value, field, path.parent)
    return base


def _from_toml(value: Any, field: FieldInfo, folder: Path) -> Any:
    """A value of a TOML file; paths are relative to the file's folder."""
    if value == "none" and _is_optional(field.annotation):
        return None
    if isinstance(value, str) and _is_path(field.annotation, value):
        return _as_declared(field.annotation, (folder / value).resolve())
    return value


def _parse(text: str, field: FieldInfo, where: str) -> Any:
    if text == "none" and _is_optional(field.annotation):
        return None
    if get_origin(field.annotation) is tuple:
        parts = [part.strip() for part in text.strip("()[]").split(",")]
        return tuple(parts) if parts != [""] else ()
    return text


def _is_path(annotation: Any, value: str) -> bool:
    """Whether it is a path field, or a text such as model.path that starts like a relative path."""
    return Path in (annotation, *get_args(annotation)) or value.startswith(("./", "../"))


def _as_declared(annotation: Any, path: Path) -> Path | str:
    return str(path) if annotation is str else path


def _is_optional(annotation: Any) -> bool:
    return type(None) in get_args(annotation)


def type_name(annotation: Any) -> str:
    if annotation is type(None):
        return "none"
    if get_origin(annotation) is Literal:
        return "|".join(str(choice) for choice in get_args(annotation))
    if get_origin(annotation) is types.UnionType:
        return "|".join(type_name(part) for part in get_args(annotation))
    if get_origin(annotation) is tuple:
        parts = get_args(annotation)
        return ",".join("..." if part is Ellipsis else type_name(part) for part in parts)
    return str(annotation.__name__).upper()


def value_text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value)


def _toml(value: Any) -> str:
    if isinstance(value, Path):
        value = value.absolute()
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(part) for part in value) + "]"
    if isinstance(value, int | float):
        return value_text(value)
    text = json.dumps(value_text(value), ensure_ascii=False)  # a TOML basic string, but for DEL
    return text.replace("\x7f", "\\u007f")


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"][:2])
    if not where:  # raised by RunConfig itself: the message already has key, value and fix
        return str(problem["msg"]).removeprefix("Value error, ")
    message, value = problem["msg"], problem["input"]
    if problem["type"] == "extra_forbidden":
        section, _, key = where.partition(".")
        if key:
            _field(section, key, where="config")
        return f"unknown section [{section}]. {_suggest(section, RunConfig.model_fields)}"
    section, key = where.split(".")
    field = _field(section, key, where="config")
    kind = type_name(field.annotation)
    return f"{where} = {value_text(value)!r}: {message}. Fix: give {kind}. {field.description}"
