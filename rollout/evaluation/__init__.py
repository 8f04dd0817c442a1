"""Accuracy on published and own sets: items, prompts, requests, verdicts, results.

    sets --> items --> questions --> endpoint --> replies.jsonl --> verdicts --> figures --> pages
                                                        ^              '--> judge (undecided ones)
                                                        '-- a second run goes on from here

    command, arguments, settings     what the commands have in common, and what they are asked
    session                          one result: some sets asked, judged and written
    run                              asks every item of a set, many at once
    target                           the model: an endpoint, or a checkpoint that is served
    endpoint                         asks any server of OpenAI's chat completions
    items, options                   what is asked, and what options are in a question
    prompts                          the words in which each benchmark asks
    questions                        an item's prompt and the picture of a view
    replies, lines                   replies as they came, in a file that only grows
    verdicts, judge                  what a reply is worth: by rules, or by a model
    figures                          shares, means and their intervals
    paper_table                      what the paper reports, beside our figures
    results, stored_result, identity     RESULT/result.json: written, read, and what it is of
    pages, item_cards, pictures, text_tables, terminal, progress     what people see
    gap                              what a model sees in the crop alone
    compare, compare_pages           two results, item by item
    hub, rows                        the files of a set

    sets/                            the sets, one a module

Invariant: every reply is kept before it is judged; a verdict can be computed again from the replies
alone. Failed requests, cut and undecided replies are counted apart and are never simply wrong.
"""
