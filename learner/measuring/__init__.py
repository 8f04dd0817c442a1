"""Accuracy on held-out samples, measured by the rollout servers while training goes on.

    heldout         the held-out samples: what is measured on them, and when
    measurement     one measurement by the rollout servers, beside training
    evaluation      accuracy from answers
    scenes          what the report shows of a dozen held-out scenes

Invariant: an accuracy names the version of the weights that answered.
"""
