"""The learner process: python -m learner.main --config FILE [--section.key value ...]"""

import logging
import os
import signal
import sys
import time

from common.config import RunConfig
from common.config_cli import exit_with, load_or_exit
from common.errors import ConfigError

logger = logging.getLogger(__name__)
PURPOSE = "Trains the student on the broker's batches and pushes its weights to rollout servers."


def main() -> None:
    began = time.monotonic()
    config = load_or_exit(sys.argv[1:], "python -m learner.main", PURPOSE)
    try:
        check_process(config)
    except ConfigError as error:
        exit_with(error)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until there is something to finish
    from common.errors import VisionOpdError, exit_code_of
    from common.logs import configure_logging
    from common.model_folder import with_local_models

    configure_logging("learner")
    try:
        config = with_local_models(config)
        from learner.assembly import run  # imports torch: after what can be refused without it

        run(config, began)
    except ConfigError as error:
        exit_with(error)
    except VisionOpdError as error:
        logger.error("%s", error)
        raise SystemExit(exit_code_of(error)) from None


def check_process(config: RunConfig) -> None:
    """Check what a learner needs beside a valid configuration; ConfigError says what is not set."""
    if config.run.folder is None:
        raise ConfigError("run.folder is not set. Fix: --run.folder DIR")
    if config.data.train is None:
        raise ConfigError("data.train is not set. Fix: --data.train FILE.parquet")
    if config.broker.address.endswith(":0"):
        raise ConfigError(
            f"broker.address = {config.broker.address!r} has no port. "
            "Fix: give the address that the broker wrote to broker.json in the run folder"
        )
    from broker.net.transport import zmq_link
    from broker.protocol import Role
    from learner.figures.trackers import check_trackers

    # What is wrong with them shows now, not after the model is loaded.
    zmq_link(config.broker, Role.LEARNER)
    check_trackers(config.run.trackers)
    _check_addresses(config)


def _check_addresses(config: RunConfig) -> None:
    """Refuse addresses off loopback unless the broker has left it, which takes keys.

    torch.distributed authenticates no peer.
    """
    from common.addresses import split_address
    from common.network import is_loopback

    broker_host, _ = split_address(config.broker.address)
    if config.broker.keys is not None and not is_loopback(broker_host):
        return
    listens = {}
    if config.weights.transport == "broadcast":
        listens["weights.host"] = config.weights.host
    if os.environ.get("WORLD_SIZE", "1") != "1" and "MASTER_ADDR" in os.environ:
        listens["environment: MASTER_ADDR"] = os.environ["MASTER_ADDR"]
    for key, host in listens.items():
        if not is_loopback(host):
            raise ConfigError(
                f"{key} = {host!r}: with a broker on loopback, or without keys (CURVE), the "
                "learner listens on loopback only. Fix: use 127.0.0.1; or make keys (python -m "
                "broker.keys FOLDER), set broker.keys = FOLDER and broker.address = "
                "tcp://HOST:PORT, and see that only the run's machines reach this one"
            )


if __name__ == "__main__":
    main()
