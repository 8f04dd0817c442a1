"""The inspector: one page for a run, live or over, by itself or beside another one.

    inspected_run   a run, and each answer of the API about it
    run_folder      state of a run; what its folder lacks
    figures, curves, followed   metrics and observations, read on as they grow
    trained_rows, tokens   trajectories out of RUN/trained; their texts
    index_rows, index_files, indexing   the index of trajectories is built (RUN/inspector)
    index_worker, index   its process; what is built, in memory
    query, queries, changed, histograms   questions to the index
    groups, samples   a group token by token; its row of the data
    heldout, quarantined, explanations   other answers
    scores          what student and teacher hold likely at each token, computed when asked for
    pictures        pictures of samples as student and teacher saw them
    scenes          RUN/scenes.json, before and after
    answers, kept_answers   what the page may ask, by name; what costs seconds is kept
    server          serves page and answers to those who may ask
    web_files, export   the files of the page (web/); the page as one file

It reads a run and changes nothing of it: RUN/inspector alone is written, by processes of low
priority that may die at any time.
"""
