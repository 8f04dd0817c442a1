"""What the learner's configuration must say as the broker's does: compared before it trains."""

from broker.protocol import Welcome
from common.config import RunConfig
from common.errors import ConfigError


def check_agreement(welcome: Welcome, config: RunConfig) -> None:
    """Refuse a learner that was started with other rules than the broker.

    Its look-ahead and its guard of staleness follow its own configuration, so with other rules it
    would render what no step trains, or refuse what the broker hands out.

    Raises:
        ConfigError: it names the keys and both values.
    """
    pairs = {
        "learner.groups_per_step": (config.learner.groups_per_step, welcome.groups_per_step),
        "broker.max_staleness": (config.broker.max_staleness, welcome.max_staleness),
    }
    differing = {key: values for key, values in pairs.items() if values[0] != values[1]}
    if not differing:
        return
    found = ", ".join(
        f"{key} = {ours} here, {theirs} at the broker" for key, (ours, theirs) in differing.items()
    )
    options = " ".join(f"--{key} {theirs}" for key, (_, theirs) in differing.items())
    raise ConfigError(f"{found}. Fix: {options}, or start the broker with this configuration")
