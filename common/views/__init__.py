"""How a sample is shown to the model: one registered view a file, in `common.views.kinds`.

    sample, settings, seed --> view: picture, question --> showing: what a model is given, and the
                                                           record of it that the group carries

    view            what a view is
    registry        views by name
    settings        what decides how views look, apart from sample and seed
    showing         a view as a model is given it, and what is kept of that in the record
    regions         boxes and the parts of pictures inside them
    texts           text after a question
    degradations    ways to make a picture worse
    contrast        a picture without its fine detail (VA-OPD)
    kinds/          the views

Invariant: equal arguments give equal pixels and text in any process. A group carries its view's
name, seed and digest, and the learner refuses one that was shown anything else.

How to add a view: one module in `kinds`, of its name, that defines VIEW, a `view.View`. Rollout,
student, teacher, planner and evaluation find it there. An option that only it has is a key of
`common.config` and a field of `settings`. The list in `kinds`, the help of the key and
deploy/README.md name it. tests/common/views/test_views.py takes every view through size, pixels and
text, tests/common/test_config.py compares the documents.
"""
