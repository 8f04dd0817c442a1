"""Accuracy on held-out samples, measured by the rollout servers while training goes on.

    heldout         the held-out samples: what is measured on them, and when
    measurement     one measurement by the rollout servers, beside training
    evaluation      accuracy from answers
    items           the answers behind an accuracy: RUN/heldout/*.jsonl
    scenes          what the report shows of a dozen held-out scenes

A measurement (`measurement`):

    main:    order | step | step | is it there? ... | yes: accuracy
    broker's thread:   order > read answers as they come > judge > drop

Rank 0 has it. Servers that keep a copy of the weights answer beside later ones
(`is_pinned`); the others have them only until the next push, which then has to wait.

RUN/scenes.json, and pictures in RUN/scenes/*.png. They are written before the first step ("after"
is null then) and again, whole, after the last. The rollout servers have answered, in a measurement:

    {"scenes": [{
        "sample_id": str,
        "question": str,                        without the "<image>" placeholder
        "reference_answer": str | null,
        "image": str,                           absolute path of the full image
        "image_size": [width, height],          pixels
        "box": [x1, y1, x2, y2] | null,         the evidence in the full image
        "crop_box": [x1, y1, x2, y2] | null,    the part that the crop view shows; null: ready crop
        "crop": str,                            absolute path of the crop view, a PNG
        "before": ANSWERS | null,
        "after": ANSWERS | null                 null: not measured (yet), or interrupted
    }, ...]}

    ANSWERS = {
        "version": int,                         of the student that answered
        "full": {"text": str, "is_correct": bool | null,
                 "tokens": [{"text": str, "divergence_nats": float}, ...]},
        "crop": {"text": str, "is_correct": bool | null}
    }

`divergence_nats` compares the student on the full image with the teacher on the crop, token by
token of the student's own greedy answer, with the divergence that is trained on. The last token is
usually the end-of-turn token. `is_correct` is null where there is no reference answer.

Invariant: an accuracy names the version of the weights that answered.
"""
