// Held-out samples: what the student answered before and after, by set.

import { each, empty, h, mark } from "./dom.js";
import { thumbnail } from "./pictures.js";
import { pager, range } from "./samples.js";
import { ask, PAGE, recorded } from "./source.js";
import { go, link } from "./state.js";

const CHANGES = [
  ["all", "All"],
  ["gained", "Gained"],
  ["lost", "Lost"],
  ["same", "Same verdict"],
];

export async function heldout(params, runs) {
  const run = runs[0];
  const chosen = { ...params, run: run.key, change: params.change || "all" };
  const query = {
    run: run.key,
    change: chosen.change,
    set: params.set,
    text: params.text,
    limit: PAGE,
    offset: Number(params.offset || 0),
  };
  const answer = await ask("heldout", query);
  const content = answer.items.length
    ? items(run, answer)
    : empty(
        answer.versions.length
          ? "No item is like that."
          : "This run has no answers to held-out samples (yet).",
      );
  return h(
    "div",
    {},
    h("h1", {}, "Held-out"),
    controls(chosen, answer),
    h(
      "p",
      { class: "count", role: "status" },
      range(query.offset, answer.items.length, answer.total, "items"),
      versionsText(answer.versions),
    ),
    content,
    pager("heldout", params, query.offset, answer.total, recorded ? answer.items.length : null),
  );
}

function versionsText(versions) {
  return versions.length > 1
    ? `, before: the weights of step ${versions[0]}, after: of step ${versions.at(-1)}`
    : "";
}

function controls(params, answer) {
  const chips = CHANGES.map(([change, title]) =>
    h(
      "a",
      {
        href: link("heldout", { ...params, change, offset: "" }),
        "aria-current": params.change === change ? "true" : null,
      },
      title,
    ),
  );
  const sets = h(
    "select",
    { name: "set", id: "heldout-set", "aria-label": "Set" },
    ["", ...answer.sets].map((name) =>
      h("option", { value: name, selected: (params.set ?? "") === name }, name || "all sets"),
    ),
  );
  const apply = (event) => {
    event.preventDefault();
    go("heldout", {
      ...params,
      offset: "",
      ...Object.fromEntries(new FormData(event.currentTarget)),
    });
  };
  const form = h(
    "form",
    {
      class: "filters",
      role: "search",
      onsubmit: apply,
      onchange: (event) => event.target.tagName === "SELECT" && event.currentTarget.requestSubmit(),
    },
    answer.sets.length > 1 && sets,
    h("input", {
      type: "search",
      name: "text",
      id: "heldout-text",
      placeholder: "in question or answers",
      "aria-label": "Text",
      value: params.text ?? "",
      class: "long",
    }),
  );
  return h(
    "div",
    { class: "bar-of-controls" },
    h("nav", { class: "chips", "aria-label": "Changes" }, chips),
    recorded ? null : form,
  );
}

function items(run, answer) {
  const [before, after] = [answer.versions[0], answer.versions.at(-1)];
  const cards = each(answer.items, (item) => {
    const shot = thumbnail(
      { run: run.key, sample: item.sample_id, view: "full" },
      `picture of ${item.sample_id}`,
    );
    const course =
      answer.versions.length > 2 &&
      h(
        "div",
        { class: "course" },
        answer.versions.map((version) => verdictAt(item, version)),
      );
    return h(
      "article",
      { class: "item" },
      shot,
      h(
        "div",
        {},
        h("h3", {}, String(item.question ?? "").trim()),
        h(
          "small",
          {},
          [item.set, item.sample_id, item.answer && `reference: ${item.answer}`]
            .filter(Boolean)
            .join(" \u00b7 "),
        ),
        h(
          "dl",
          {},
          answers("before", item.answers[before]),
          before === after ? null : answers("after", item.answers[after]),
        ),
        course,
      ),
    );
  });
  return h("div", { class: "items" }, cards);
}

function verdictAt(item, version) {
  const found = item.answers[version]?.full;
  return h(
    "span",
    { title: found ? `step ${version}: ${found.text}` : `step ${version}: not asked` },
    h("small", {}, version),
    found ? mark(found.is_correct) : "\u2013",
  );
}

function answers(name, given) {
  if (!given) return [h("dt", {}, name), h("dd", {}, h("em", {}, "not asked"))];
  const crop =
    given.crop &&
    h("small", {}, "from the crop: ", mark(given.crop.is_correct), " ", given.crop.text);
  return [
    h("dt", {}, name),
    h(
      "dd",
      {},
      given.full ? [mark(given.full.is_correct), " ", given.full.text] : h("em", {}, "not asked"),
      crop,
    ),
  ];
}
