"""Rules for failed attempts: when a sample is tried again, and when it is given up. Pure.

An attempt that ends without a group has one of three causes (`Blame`):

- `SAMPLE`: the engine answered, and its answer to this very request was an error or useless; or
  the row's picture cannot be read.
- `SUSPECT`: there was no answer. The engine died or hung, its process was lost, the lease lapsed.
  Any group that was under way then may be the cause, so all of them are suspects. Each such attempt
  counts, but the last one of a suspect is made alone, on a server that generates nothing else
  meanwhile: only a group that fails alone is quarantined for it. So an engine that dies with 16
  groups under way costs none of the 15 innocent ones, and the culprit is found by its
  `max_attempts`th death.
- `NOBODY`: a pause cut it short, or steps were undone. It does not count.

A sample is quarantined with its `max_attempts`th counted attempt. (One more is made when the last
one was blamed on the sample until then, and is a shared death itself; or when max_attempts is 1.)
After each attempt a group rests, twice as long as before, so that nothing is tried in a hot loop.
"""

from broker.ledger.entry import Entry
from broker.protocol import Blame

_LONGEST_REST_S = 30.0


def needs_solitude(entry: Entry, max_attempts: int) -> bool:
    """Tell whether the next attempt must be the only one on its server."""
    return entry.is_suspect and entry.failures >= max(1, max_attempts - 1)


def note_failure(entry: Entry, blame: Blame, why: str, now: float, first_rest_s: float) -> None:
    """Note that an attempt has come to nothing."""
    entry.returns += 1
    entry.failures += blame is not Blame.NOBODY
    entry.is_suspect |= blame is Blame.SUSPECT
    entry.last_failure = why
    entry.rests_until = now + rest_s(entry.returns, blame, first_rest_s)


def is_hopeless(entry: Entry, blame: Blame, max_attempts: int) -> bool:
    """Tell whether the attempt that has just been noted was the last one."""
    if blame is Blame.NOBODY or entry.failures < max_attempts:
        return False
    return blame is Blame.SAMPLE or entry.is_alone


def note_success(entry: Entry) -> None:
    """Note that a group came of an attempt: no failure before was the sample's fault."""
    entry.returns = entry.failures = 0
    entry.is_suspect = False
    entry.last_failure = ""


def rest_s(returns: int, blame: Blame, first_rest_s: float) -> float:
    """Seconds until a group that has come back `returns` times is leased again.

    An attempt that does not count (`Blame.NOBODY`) is repeated at once, the first time.
    """
    doublings = returns - 1 - (blame is Blame.NOBODY)
    return 0.0 if doublings < 0 else min(_LONGEST_REST_S, first_rest_s * 2.0 ** min(doublings, 30))
