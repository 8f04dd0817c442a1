"""Machines, pools, and what each process of a run is on them. Nothing here starts anything.

clusters --> nodes --------------+
                                 +--> fit: which process sits where --> dry_run, by_hand
config --> pools, process_specs -+     '--> misfit: what is said when it does not

clusters, nodes     where machines come from; a machine
pools               how many processes of which kind, and what each needs
process_specs       each process as a command with its environment
fit, gpu_shares     which process sits on which machine with which GPUs
misfit              what would help where a pool finds no place
machines            which machines a run asks for where none are there yet
environments        which environment a process needs
dry_run, by_hand    all of it as text; as commands for terminals
"""
