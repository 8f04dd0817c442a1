"""The oracle's comparison, with points that are made up; the real ones need a package index."""

from tests.bench.oracle import compare, item_of, questions, report, rows


def compared(tmp_path, points_of):
    docs = {"pope": rows("pope")}
    asked = list(questions(docs))
    items = {"pope": item_of("pope", docs["pope"], tmp_path)}
    return list(compare(asked, [points_of(one) for one in asked], items))


def test_a_reply_is_read_as_the_labels_that_get_a_point(tmp_path):
    exact = compared(tmp_path, lambda one: float(one["reply"].lower() == one["label"]))
    read = {one.reply: (one.theirs, one.ours, one.truth) for one in exact}
    assert read["yes"] == ("yes", "yes", "yes") and read["No"] == ("no", "no", "no")
    assert read["Yes."] == ("-", "yes", "yes") and read[""] == ("-", "-", "-")


def test_an_error_and_points_for_every_label_are_shown(tmp_path):
    failed = compared(tmp_path, lambda one: "KeyError")
    assert {one.theirs for one in failed} == {"KeyError"}
    always = compared(tmp_path, lambda one: 1.0)
    assert {one.theirs for one in always} == {"yes or no"}


def test_the_report_lists_differences_with_their_reason_and_counts_them(tmp_path):
    exact = compared(tmp_path, lambda one: float(one["reply"].lower() == one["label"]))
    told = report(exact, {"pope": True}).split("\n")
    place = next(n for n, line in enumerate(told) if line.endswith('"Yes."'))
    assert told[place].split() == ["pope", "-", "yes", "yes", '"Yes."']
    assert "a full stop; lmms-eval takes nothing but yes and no themselves" in told[place + 1]
    assert not any(line.endswith('"yes"') for line in told)
    differing = sum(not one.is_same for one in exact)
    assert told[-2] == (
        f"pope: {len(exact)} replies, {differing} read differently (ours right {differing}, "
        "theirs 0); same prompt"
    )


def test_every_set_that_lmms_eval_has_is_asked_about_with_all_its_labels(tmp_path):
    names = ("vstar", "hrbench-4k", "mmstar", "cv-bench", "mme-realworld", "mmvp", "pope")
    docs = {name: rows(name) for name in names}
    for name in names:
        item = item_of(name, docs[name], tmp_path)
        labels = {one["label"] for one in questions({name: docs[name]})}
        assert labels == {letter for letter, _ in item.options} or labels == {"yes", "no"}
