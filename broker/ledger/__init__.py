"""What is decided about samples, steps and versions: pure state machines, without a clock or I/O.

    WAITING --lease--> LEASED --submit--> READY --take--> TAKEN --acknowledge--> DONE
       ^                  |                 |               |                      |
       '--- lapse, give back, lose, too old, rewind to an earlier checkpoint ------'

    ledger          decisions about leases and submits; asks those below for the others
    steps           the learner's steps: taken, acknowledged, freed, committed, undone
    commands        the table of recorded calls, which is the journal's format
    groups          the stream of groups: what is next, in flight, ready, taken
    entry           one group's record, its lease and its receipt; the rules of a run
    attempts        which failed attempts count, and what follows from them
    quarantine      the samples that were given up, and why
    servers         the rollout servers' weight versions and their free slots
    accounts        how many tokens and trajectories came from where
    shards          which groups of a step belong to which rank
    evaluations     the evaluation requests in work, and their answers
    refusal         a request that cannot be granted, and the error code it carries

A failed attempt is blamed (`attempts`); its group rests and waits again at its place, or its sample
is quarantined and the groups behind it move up. A group that waits holds up the step it belongs to,
and a step that is held up pushes no weights: what is to come back later must leave its place.

Invariant: the same commands with the same arguments, in the same order, give the same state. So a
journal of commands is the whole state, and a test can replay any of them. The table in
`commands` is the journal's format: see `broker.storage` before you change it.
"""
