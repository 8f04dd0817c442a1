"""The key of an engine's HTTP port: a client that has it may command the engine.

An engine that we start gets a new key at every start, in a file that its owner alone can read, or
the key of sglang.api_key_file. Command lines and environments show the file's name, never the key.
"""

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common.config import RunConfig
from common.engines import engine_of
from common.errors import ConfigError, EngineError
from common.files import NotPrivate, read_private, replace_private
from common.network import is_loopback

KEY_FILE_VARIABLE = "VISION_OPD_API_KEY_FILE"  # in the engine's environment
SETTING = "sglang.api_key_file"
_HOW_TO_MAKE = "(umask 077; openssl rand -hex 32 > FILE)"


@contextlib.contextmanager
def engine_key_file(config: RunConfig, index: int) -> Iterator[Path]:
    """The file with the key of engine `index`, for as long as the engine lives.

    Raises:
        ConfigError: sglang.api_key_file holds no key, or others can read it.
        EngineError: a disk takes no new one.
    """
    if config.sglang.api_key_file is not None:
        read_key(config.sglang.api_key_file)
        yield config.sglang.api_key_file.absolute()
        return
    with _key_folder(config) as folder:
        path, key = folder / f"engine-{index}.token", secrets.token_hex(32)
        try:
            replace_private(path, key.encode())
        except OSError as error:
            raise EngineError(
                f"{path} cannot be written: {error.strerror}. Fix: free space, or repair its disk"
            ) from error
        try:
            yield path
        finally:
            _forget(path, key)


def configured_key(config: RunConfig) -> str | None:
    """The key of engines that others start, or None. Raises ConfigError."""
    path = config.sglang.api_key_file
    return None if path is None else read_key(path)


def check_engine(config: RunConfig) -> None:
    """Refuse what the engine cannot be given; nothing is looked for but the key's file.

    Raises:
        ConfigError: flags, a key, or an address that others can reach without one.
    """
    configured_key(config)
    if not config.rollout.engine_urls:
        check_host(config, config.rollout.host)
        engine_of(config).check(config)


def read_key(path: Path, setting: str = SETTING) -> str:
    """The key in a file: one line of printable ASCII.

    Args:
        setting: where the file was named, for errors.

    Raises:
        ConfigError: no such file, others can read it, or its content is no key.
    """
    where = f"{setting} = {str(path)!r}"
    fix = f"Fix: put one line of letters and digits into it, e.g. {_HOW_TO_MAKE}"
    try:
        key = read_private(path).decode().strip()
    except NotPrivate as error:
        raise ConfigError(f"{where}: {error}. Fix: chmod 600 {path}") from None
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror}. {fix}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: it is no text. {fix}") from None
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{where}: it holds no key. {fix}")
    return key


def bearer(key: str | None) -> dict[str, str]:
    """The header that shows a key."""
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def check_host(config: RunConfig, host: str) -> None:
    """Refuse a host that others reach without a key agreed on with them. Raises ConfigError."""
    if config.sglang.api_key_file is None and not is_loopback(host):
        raise ConfigError(
            f"rollout.host = {host!r} lets others on the network command the server, and "
            f"{SETTING} is not set. Fix: name a file with a key, e.g. {_HOW_TO_MAKE}, or "
            'rollout.host = "127.0.0.1"'
        )


def key_given_by_hand(path: str | None, host: str, is_without: bool) -> str | None:
    """The key of an engine that a person starts on a command line.

    Args:
        is_without: it was asked for none.

    Raises:
        ConfigError: there is none and that was not asked for, or others can reach `host`.
    """
    path = path or os.environ.get(KEY_FILE_VARIABLE)
    if path is not None:
        return read_key(Path(path), "--api-key-file")
    if is_without and is_loopback(host):
        return None
    reach = "this machine" if is_loopback(host) else "the network"
    raise ConfigError(
        f"--host {host} without --api-key-file lets everybody on {reach} command the engine. "
        f"Fix: --api-key-file FILE, made with {_HOW_TO_MAKE}"
        + ("; or --without-key" if is_loopback(host) else "")
    )


@contextlib.contextmanager
def _key_folder(config: RunConfig) -> Iterator[Path]:
    """A folder that others cannot enter."""
    if config.run.folder is None:
        with tempfile.TemporaryDirectory(prefix="vopd-key-") as name:
            yield Path(name)
        return
    folder = config.run.folder / "keys"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    yield folder


def _forget(path: Path, key: str) -> None:
    """Remove the file, unless a later start has put its own key there."""
    with contextlib.suppress(OSError):
        if path.read_text(encoding="ascii") == key:
            path.unlink()
