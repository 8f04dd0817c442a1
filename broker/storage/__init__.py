"""Where decisions and trajectories are kept, so that nothing acknowledged is ever lost.

    store           what the service asks of any store; the one that keeps all in memory
    durable         the store on a disk: journal and segments, flushed together
    frames          the journal's records: length, checksum, content
    segments        the trajectory files: one Arrow record batch a group
    disk            the few file operations that durability is built from
    identity        what makes a run this run; the journal's format number
    recovery        from the files back to the state of the ledger

The journal. RUN/journal/journal.log is a list of records, each framed and checksummed (`frames`):

    record:   number, seconds on the broker's clock, command, arguments, outcome
    begin:    the first record: format, rules and data of the run (`identity`); a broker that opens
              the folder with others is refused, by name
    opened:   a broker has begun to write: the boot of its machine, and its fsync policy
    stored:   where a group's trajectories lie: segment, offset, length, checksum
    others:   a command of `broker.ledger`, by its name, with its arguments in their order

`recovery` gives the same commands to a new ledger, one after the other, and compares every outcome.
Reads, heartbeats and announcements change no decision and are not recorded.

The format is therefore more than bytes: `broker.ledger.commands`, the table of commands with their
arguments, and what they mean belong to it, as does `common.group_batch.schema`, the columns of a
segment. A change of any of them needs a new number in `identity.FORMAT`, and a run of
another number is refused with what to do. `broker.journal`
reads, checks and repairs these files by hand.

Invariant: a segment is flushed before the journal's record that points to it, and a request is
acknowledged after both. A cut at any byte leaves a state that was once true
(tests/broker/storage/test_durable.py cuts at every one).
"""
