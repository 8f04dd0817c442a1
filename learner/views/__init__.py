"""What student and teacher look at: samples rendered into model inputs, ahead of need.

    upcoming --samples of the next steps--> prompts --> pool --> worker (a process) --> renderer
                                               |  cache
    groups --> preparation --asks for views----'   '--> PromptView: token ids, positions, pixels

    preparation     groups from the broker -> model inputs; refuses what does not check out
    inputs          what the learner computes on
    prompts         the views of samples, rendered once and kept while there is room
    cache           rendered views by key, bounded in bytes
    renderer        one view of one sample -> token ids and pixels
    pool, worker    processes that render
    upcoming        the samples that the next steps will train on
    training        opens the views with all that a run's options ask for

What a view shows is decided in `common.views.kinds`; this package renders it. `preparation` also
makes the learner's own check of staleness, and compares what the rollout was shown with what the
learner would show: text, pixels, seed.
"""
