"""Places processes, keeps them alive, and ends them in good order.

    live_run --> supervisor --> restart_loop --> process_set --> placement --> process_actor
                     |          again, paused    one life        Ray           on its machine
                     '--> process_table, silence, launcher_api

    live_run            one run: Ray, supervisor, view
    supervisor          start, death, end and stop of all processes
    broker_address      where the broker listens, once it says so
    restart_loop        starts processes again that belong together, up to a budget
    process_set         one life of processes that live and die together
    start_requests      what a machine is asked to start, made anew for each life
    placement           a place on a machine, through Ray
    process_actor       starts one process there, waits for it, stops it
    ray_connection      a Ray that runs, or one of our own
    private_folder      what Ray keeps while it runs
    process_table       RUN/processes.json
    silence             which processes the broker has lost although they run
    launcher_api        the running launcher's HTTP server on loopback
    launcher_figures    what the launcher tells Prometheus
    room                whether the disk still takes anything
    run_folder          RUN: its name, its files, who runs it
    begun_run           a refusal leaves RUN as it was
    trusted_folder      whether RUN is only its owner's

Invariant: a refused start changes no file of the run folder. Nothing that it started
on its machine outlives a launcher, even one that is killed (tests/deploy/quickstart).
"""
