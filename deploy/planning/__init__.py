"""Predict a run before it starts, and say afterwards where its time went.

    shape, devices, workload --> assumed --+
    calibrate --> measured ----------------+--> rates --> simulation --> prediction --> plan_text
    RUN --> run_files, journal_facts --> accounting, verdict --> explain_text

    shape               the size of a model
    devices             what a GPU or a core can do
    workload            how long prompts and responses are
    assumed, measured   rates from sizes and makers' figures; from a run
    calibrate           a few steps of the very run
    rates               how long everything takes
    memory, micro_batches    bytes on a GPU; how many tokens a micro-batch may have
    layout              the ways to divide machines
    simulation, server_model    a run in virtual time, with the broker's own ledger
    prediction          every split, and the one to choose
    plan_text, explain_text, tables    pages of text
    run_files, journal_facts    what a run folder and its journal tell
    accounting          the learner's seconds, which add up
    limit               what limits a run now and what to turn, in a sentence
    verdict             what would help, by a run's rates

How to add a GPU: a line with its maker's figures in `devices.GPUS`. What the driver calls a GPU is
cut to one word, as Ray labels it (`common.gpus`): one whose name needs more is found by `--gpu`
alone.

Invariant: admission and staleness are decided by the ledger itself, so a plan cannot disagree with
a run about them (tests/deploy/planning/test_simulation.py).
"""
