"""Random walks through the states of a ledger."""

import random

from broker.protocol import Blame
from tests.broker.support import make_rules
from tests.broker.world import SERVERS, World


def walk(seed: int, num_events: int) -> World:
    """A run in which most events are good ones, so that it gets far."""
    rng = random.Random(seed)
    rules = make_rules(rng.randint(1, 3), rng.randint(0, 2), max_attempts=rng.randint(1, 3))
    world = World(rng.randint(1, 30), rules, rng.randint(1, rules.groups_per_step))
    for _ in range(num_events):
        server = rng.choice(SERVERS)
        lag = rng.choice((0, 0, 0, 0, 1, 2))
        event = rng.choices(EVENTS, WEIGHTS)[0]
        if event == "lease":
            world.lease(server, rng.randint(1, 4), lag)
        elif event in ("submit", "give_back") and world.granted:
            holder, granted = world.granted[-rng.randint(1, min(8, len(world.granted)))]
            if event == "submit":
                world.submit(granted, rng.choice((holder, holder, holder, server)), lag)
            else:
                blames = (Blame.SAMPLE, Blame.SAMPLE, Blame.SUSPECT, Blame.NOBODY)
                world.give_back(granted, holder, rng.choice(blames))
        elif event == "lose":
            world.lose(server)
            world.join(server)
        elif event == "checkpoint":
            world.checkpoint()
        elif event == "restart_learner":
            world.restart_learner(rng.randint(1, 2))
        elif event == "wait":
            world.wait(rng.choice((1.0, 5.0, 10.0)))
        elif event == "update_weights":
            world.update_weights(server)
        elif event == "take":
            world.take()
        elif event == "acknowledge":
            world.acknowledge(refuses=rng.random() < 0.2)
        world.check()
    world.end()
    return world


EVENTS = (
    "lease", "submit", "give_back", "lose", "wait", "update_weights", "take", "acknowledge",
    "checkpoint", "restart_learner",
)  # fmt: skip
WEIGHTS = (20, 40, 4, 1, 2, 12, 12, 12, 3, 1)
