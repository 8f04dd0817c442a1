"""The picture of a run that goes on, in a terminal: `deploy.top` and the launcher draw it alike.

    RUN --> folder_facts --+
    status, waits ---------+--> facts --> overview, servers, queue, learner, logs --> page

folder_facts    what the run folder says, read now and then
facts           all that a picture is drawn from, and how it answers questions
overview, servers, queue, learner, logs    the views: blocks of lines
page            the frame, the blocks side by side or one below the other, the keys, the help
text            lines that fit: names are elided, figures never
keyboard        single keys of a terminal, whose mode comes back

How to add a view: a module with a function that gives its `page.Blocks`, and a line in
`page.VIEWS`.
"""
