"""Every known bug of others is seen by a proof, and by nothing but the bug."""

import logging

import pytest

from tests.broker.ledger.support import walk
from tests.broker.proof.mutants import MUTANTS, SIMULATOR, WALK, Mutant, installed
from tests.broker.proof.simulator import first_error, simulate
from tests.broker.proof.state import Instance
from tests.broker.proof.state_space import Violation, explore

SEARCHED = [mutant for mutant in MUTANTS if isinstance(mutant.caught_by, Instance)]
WALKED = [mutant for mutant in MUTANTS if mutant.caught_by == WALK]
SIMULATED = [mutant for mutant in MUTANTS if mutant.caught_by == SIMULATOR]
SEEDS = range(20)


def _name(mutant: Mutant) -> str:
    return mutant.name.replace(" ", "-")


@pytest.mark.parametrize("mutant", SEARCHED, ids=_name)
def test_search_sees_the_mutant(mutant: Mutant) -> None:
    assert isinstance(mutant.caught_by, Instance)
    with installed(mutant), pytest.raises(Violation):
        explore(mutant.caught_by)


@pytest.mark.parametrize("mutant", WALKED, ids=_name)
def test_walks_see_the_mutant(mutant: Mutant) -> None:
    with installed(mutant), pytest.raises(AssertionError):
        for seed in SEEDS:
            walk(seed, num_events=120)


@pytest.mark.proof
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", SIMULATED, ids=_name)
def test_simulator_sees_the_mutant(mutant: Mutant) -> None:
    logging.disable(logging.CRITICAL)
    try:
        with installed(mutant), pytest.raises(BaseException) as caught:
            for seed in range(1000):
                simulate(seed)
    finally:
        logging.disable(logging.NOTSET)
    # a rule that is broken, or a run that never ends; and not a patch that crashes
    assert isinstance(first_error(caught.value), AssertionError | TimeoutError)


@pytest.mark.proof
@pytest.mark.parametrize("instance", sorted({m.caught_by for m in SEARCHED}, key=str), ids=str)
def test_search_sees_nothing_without_the_mutant(instance: Instance) -> None:
    explore(instance)


def test_walks_see_nothing_without_the_mutant() -> None:
    for seed in SEEDS:
        walk(seed, num_events=120)


def test_mutants_say_where_they_are_from() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names) >= 14
    assert all(mutant.url.startswith("https://") and mutant.bug for mutant in MUTANTS)
    proofs = [mutant.caught_by for mutant in MUTANTS if isinstance(mutant.caught_by, str)]
    assert set(proofs) <= {WALK, SIMULATOR}
