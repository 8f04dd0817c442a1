"""Run by SGLang's own Python, by path: its server with finite timeouts, tied to its parent.

    SGLANG_PYTHON rollout/sglang/launch.py [--no-commands] FLAGS OF sglang.launch_server ...

--no-commands: the key allows to generate and chat; no key allows to pause the server or to change
its weights.

SGLang starts its other processes by spawning, and each of those imports this file anew: what stands
at module level holds in all of them. SGLang's environment has none of our packages: nothing of ours
may be imported here; port_gate.py, media.py, image_cache.py, common/http_gate.py and
common/push_groups.py, which need nothing of ours, are read by their paths.

Environment:
    VISION_OPD_GROUP_TIMEOUT_S: seconds that a weight-update group may be silent.
    VISION_OPD_PARENT_PID: who started this; gone by the time it is looked for: nothing is served.
    VISION_OPD_API_KEY_FILE: file with the key of the HTTP port; unset: no key.
    VISION_OPD_PIXEL_LOG: file for digests of the pixels that the model is shown; unset: none.
"""

import ctypes
import hashlib
import importlib
import importlib.util
import inspect
import json
import logging
import math
import os
import secrets
import signal
import socket
import sys
import types
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_HERE = Path(__file__).resolve().parent
_NO_COMMANDS = "--no-commands"
_KNOWN_SGLANG = "Fix: install sglang==0.5.23 (deploy/setup.sh sglang)"


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent dies (Linux; elsewhere nothing).

    SIGKILL, not SIGTERM: after that SGLang waits for its requests, and no parent is left to end the
    wait. SGLang's processes ask for the same, but seconds later, after their imports.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = os.environ.pop("VISION_OPD_PARENT_PID", None)
    if parent is not None and os.getppid() != int(parent):
        os._exit(1)  # the parent died before the kernel was asked


def bound_group_timeout(init_group: types.FunctionType, timeout_s: float) -> None:
    """Make `timeout_s` the default of a function's parameter `timeout`.

    SGLang passes none, and so waits torch's 30 minutes for a learner that is gone. It imports the
    function by name into many modules: only a change of the function itself reaches them all.

    Raises:
        RuntimeError: this SGLang is another one than we know.
    """
    parameters = inspect.signature(init_group).parameters.values()
    optional = [
        parameter
        for parameter in parameters
        if parameter.default is not parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if "timeout" not in (parameter.name for parameter in optional):
        raise RuntimeError(
            "SGLang's init_custom_process_group has no parameter 'timeout': a weight update could "
            f"wait without end. {_KNOWN_SGLANG}"
        )
    timeout = timedelta(seconds=timeout_s)
    init_group.__defaults__ = tuple(
        timeout if parameter.name == "timeout" else parameter.default for parameter in optional
    )


def join_pushes_as_the_learner() -> None:
    """Join groups with our name within their timeout, with the learner's first broadcast.

    NCCL's waits in them end with an error, which SGLang answers. By default torch ends the whole
    process: one dead server, or a learner that pauses in a push, would take all servers with it.
    SGLang imports what is wrapped here when it makes a group.

    Raises:
        RuntimeError: this torch is another one than we know.
    """
    distributed: Any = importlib.import_module("torch.distributed.distributed_c10d")
    make = getattr(distributed, "_new_process_group_helper", None)
    if make is None or not {"group_name", "timeout"} <= inspect.signature(make).parameters.keys():
        raise RuntimeError(
            "torch.distributed has no _new_process_group_helper(group_name, timeout): a weight "
            f"update that fails would end the server. {_KNOWN_SGLANG}"
        )
    push_groups = read_part(_HERE.parents[1] / "common" / "push_groups.py")
    signature = inspect.signature(make)

    def make_or_join(*arguments: Any, **named: Any) -> Any:
        given = signature.bind(*arguments, **named).arguments
        name = str(given["group_name"])
        if not name.startswith(push_groups.PREFIX):
            return make(*arguments, **named)
        timeout_s = given["timeout"].total_seconds()
        return push_groups.join(lambda: make(*arguments, **named), name, timeout_s)

    distributed._new_process_group_helper = make_or_join


def hide_in_logs(secret: str) -> None:
    """Hide a key in logs: SGLang logs all its arguments."""
    make_record = logging.getLogRecordFactory()

    def make_record_without_secret(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # a wrong format: logging reports it itself
            return record
        if secret in message:
            record.msg, record.args = message.replace(secret, "***"), ()
        return record

    logging.setLogRecordFactory(make_record_without_secret)


def api_key() -> str | None:
    """The key, from a file: command lines and environments are seen by others."""
    path = os.environ.get("VISION_OPD_API_KEY_FILE")
    if path is None:
        return None
    with open(path, encoding="utf-8") as file:
        return file.read().strip()


def without_commands(flags: list[str]) -> list[str]:
    """SGLang's flags; with --no-commands its commands ask for a second key, which is not told."""
    if _NO_COMMANDS not in flags:
        return flags
    untold = secrets.token_hex(32)
    hide_in_logs(untold)
    return [*(flag for flag in flags if flag != _NO_COMMANDS), "--admin-api-key", untold]


def keep_sockets_private() -> None:
    """Let no umask open Unix sockets: SGLang's processes obey all who reach theirs."""
    os.umask(os.umask(0o077) | 0o022)


def listen_where_told() -> None:
    """Have the rendezvous of a server's ranks listen at the address that it is given.

    torch listens on every interface of the machine, whatever the address, and asks for no key.

    Raises:
        RuntimeError: this torch is another one than we know.
    """
    rendezvous: Any = importlib.import_module("torch.distributed.rendezvous")
    if not callable(getattr(rendezvous, "_create_c10d_store", None)):
        raise RuntimeError(
            "torch.distributed.rendezvous has no _create_c10d_store: SGLang's rendezvous would "
            f"listen on every interface. {_KNOWN_SGLANG}"
        )
    create = rendezvous._create_c10d_store

    def create_where_told(
        hostname: str, port: int, rank: int, world_size: int, timeout: Any, use_libuv: bool = True
    ) -> Any:
        if rank != 0 or port == 0:
            return create(hostname, port, rank, world_size, timeout, use_libuv)
        family = socket.AF_INET6 if ":" in hostname else socket.AF_INET
        listening = socket.create_server((hostname, port), family=family, backlog=128)
        return rendezvous.TCPStore(
            host_name=hostname, port=port, world_size=world_size, is_master=True, timeout=timeout,
            use_libuv=use_libuv, master_listen_fd=listening.detach(),
        )  # fmt: skip

    rendezvous._create_c10d_store = create_where_told


def read_part(path: Path) -> types.ModuleType:
    """A file of ours as a module."""
    spec = importlib.util.spec_from_file_location(f"vision_opd_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    part = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(part)
    return part


def decode_as_the_learner() -> None:
    """Decode JPEGs with Pillow, also on a GPU, where SGLang would take nvJPEG: other pixels.

    Training sends PNG; this is for chat with pictures as people have them.
    """
    from sglang.srt.multimodal.processors.base_processor import BaseMultimodalProcessor

    BaseMultimodalProcessor.gpu_image_decode = False


def log_pixels(path: str) -> None:
    """Append what the model is shown to a file: a JSON line {"sha256", "grid"} a picture."""
    from transformers import BaseImageProcessor

    process = BaseImageProcessor.__call__

    def process_and_log(self: Any, *arguments: Any, **options: Any) -> Any:
        result = process(self, *arguments, **options)
        if "pixel_values" in result:
            with open(path, "a", encoding="utf-8") as file:
                file.writelines(_digests(result["pixel_values"], result["image_grid_thw"]))
        return result

    BaseImageProcessor.__call__ = process_and_log


def _digests(pixels: Any, grids: Any) -> Iterator[str]:
    """Lines of digests, in steps coarse enough for a GPU's and a CPU's to be equal."""
    start = 0
    for grid in grids.tolist():
        part = pixels[start : start + math.prod(grid)].float().cpu().numpy()
        start += len(part)
        steps = (part * 512).round().astype("int16")
        sha256 = hashlib.sha256(steps.tobytes()).hexdigest()
        yield json.dumps({"sha256": sha256, "grid": grid}) + "\n"


def serve(flags: list[str], key: str | None) -> None:
    """What `python -m sglang.launch_server` does with these flags, for the holders of `key`."""
    from sglang.launch_server import run_server
    from sglang.srt.entrypoints.http_server import app
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils import kill_process_tree

    load_plugins()
    decode_as_the_learner()
    if "VISION_OPD_PIXEL_LOG" in os.environ:
        log_pixels(os.environ["VISION_OPD_PIXEL_LOG"])
    keys = [] if key is None else ["--api-key", key]
    settings = prepare_server_args([*without_commands(flags), *keys])
    gate = read_part(_HERE.parents[1] / "common" / "http_gate.py").Gate(settings.host, key)
    app.add_middleware(read_part(_HERE / "port_gate.py").PortGate, gate=gate)
    read_part(_HERE / "media.py").take_no_files(may_fetch=bool(settings.allowed_media_domains))
    try:
        run_server(settings)
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


end_with_parent()
keep_sockets_private()
_key = api_key()
if _key is not None:
    hide_in_logs(_key)

from sglang.srt.utils.common import init_custom_process_group  # noqa: E402

bound_group_timeout(
    init_custom_process_group, float(os.environ.get("VISION_OPD_GROUP_TIMEOUT_S", "60"))
)

listen_where_told()
join_pushes_as_the_learner()
read_part(_HERE / "image_cache.py").forget_pictures_with_weights()

if __name__ == "__main__":
    serve(sys.argv[1:], _key)
