"""Samples whose answer changed between two steps. Pure.

A sample is trained again in a later epoch, seldom at a step that somebody names. So what counts is
the last time up to the first step, and the last time after that, up to the second one. The answer
of a group is the text that it gave most often (of equals, the one that came first).
"""

import numpy as np

from deploy.inspector.index import Index


def of_changed(index: Index, first: int, second: int) -> np.ndarray:
    """bool [N]: the rows of both trainings of the samples whose answers differ."""
    step, sample = index.columns["step"], index.sample_codes
    is_valid = index.is_valid()
    before = _last_of_each(is_valid & (step <= first), index)
    after = _last_of_each(is_valid & (step > first) & (step <= second), index)
    has_both = (before >= 0) & (after >= 0)
    answer = index.columns["answer"]
    is_changed = has_both & (answer[before] != answer[after])
    counts: np.ndarray = is_changed[sample] & is_valid
    counts &= (step == step[before][sample]) | (step == step[after][sample])
    return counts


def _last_of_each(is_meant: np.ndarray, index: Index) -> np.ndarray:
    """int64 [samples]: the place of a row of each one's last training; -1: none."""
    places = np.flatnonzero(is_meant)
    places = places[np.argsort(index.columns["step"][places], kind="stable")]
    found = np.full(len(index.samples), -1, np.int64)
    found[index.sample_codes[places]] = places  # of several, the last one stays
    return found
