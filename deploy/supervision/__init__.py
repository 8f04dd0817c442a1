"""Places processes, keeps them alive, and ends them in good order.

    live_run --> supervisor --> keeper (one a crew) --> crew --> placement --> process_actor
                     |             again, with pauses            Ray          on its machine
                     '--> process_table, silence, control

    live_run            one run: Ray, supervisor, view
    supervisor          start, death, end and stop of all processes
    keeper              starts one crew again, up to a budget
    crew                processes that live and die together
    orders              what each process is told to do, anew for each life
    placement           a place on a machine, through Ray
    process_actor       starts one process there, waits for it, stops it
    ray_connection      a Ray that runs, or one of our own
    private_folder      what Ray keeps while it runs
    process_table       RUN/processes.json
    silence             which processes the broker has lost although they run
    control             the running launcher's HTTP server on loopback
    room                whether the disk still takes anything
    run_folder, new_folder, begun_run, trusted_folder    RUN: its files, its name, what a refusal
                        leaves as it was, whether it is only its owner's

Invariant: a refused start changes no file of the run folder. Nothing that it started
on its machine outlives a launcher, even one that is killed (tests/deploy/quickstart).
"""
