"""Named configurations times seeds, run one after the other, and what they come to.

FILE.toml --> study_file --> variants --> planned_runs --> runner --> launching: one run
                                                              '--> comparison --> pages

__main__        python -m deploy.study FILE.toml
study_file      what a study asks for
variants        the named ones, multiplied by the grid
planned_runs    its runs, and how far each has got
selection       which of them a command asks for
runner          one after the other
launching       one run, from its start to its exit code
comparison      a spread a variant, pairs of equal seeds
columns, tables     figures and tables as text
plots, dot_chart    drawings
pages           study.json, study.md, study.html

FILE.toml:

    [study]
    name = "staleness"
    config = "../quickstart.toml"                # what every variant starts from
    baseline = {"broker.max_staleness" = 0}      # or the name of a variant
    [variants.jsd]
    overrides = {"objective.divergence" = "jsd"}
    [grid]                                       # optional: multiplies the variants
    "broker.max_staleness" = [0, 1, 2]

Paths are relative to the file, in overrides as well.
"""
