"""Where decisions and trajectories are kept, so that nothing acknowledged is ever lost.

    store           what the service asks of any store; the one that keeps all in memory
    durable         the store on a disk: journal and segments, flushed together
    frames          the journal's records: length, checksum, content
    segments        the trajectory files: one Arrow record batch a group
    disk            the few file operations that durability is built from
    identity        what makes a run this run; the journal's format number
    recovery        from the files back to the state of the ledger

Invariant: a segment is flushed before the journal's record that points to it, and a request is
acknowledged after both. `broker.journal` reads, checks and repairs these files by hand.
"""
