// The same sample twice: of two runs, or at two steps of one.

import { empty, h } from "./dom.js";
import { percent, whole } from "./format.js";
import { picture } from "./pictures.js";
import { ask, PAGE, recorded } from "./source.js";
import { go, isSaid, link, readState } from "./state.js";
import { colorChoice, fullColor, METRICS, response, tokenPanel } from "./tokens.js";

const FIGURES = [
  ["full image, before", "full_accuracy_before", percent],
  ["full image, after", "full_accuracy_after", percent],
  ["evidence crop, after", "crop_accuracy_after", percent],
  ["gap closed", "gap_closed", percent],
  ["steps", "steps", whole],
  ["seconds", "seconds", whole],
  ["trajectories trained", "trajectories_trained", whole],
  ["staleness at most", "max_staleness_seen", whole],
];

export async function compare(params, runs, allRuns) {
  const isSampled = isSaid(params.sample);
  const content = isSampled ? await sidesOf(params, allRuns) : await choice(allRuns);
  return h(
    "div",
    { class: "compare" },
    h("h1", {}, isSampled ? params.sample : "Compare"),
    content,
  );
}

async function choice(runs) {
  if (recorded) return runs.length > 1 ? figures(runs) : empty(recorded.note);
  const query = { run: runs[0].key, sort: "divergence", order: "desc", limit: PAGE, offset: 0 };
  const { rows } = await ask("trajectories", query);
  const names = [...new Set(rows.map((row) => row.sample_id))];
  const open = (event) => {
    event.preventDefault();
    go("compare", { sample: new FormData(event.currentTarget).get("sample") });
  };
  return [
    runs.length > 1 && figures(runs),
    h(
      "form",
      { class: "filters", onsubmit: open },
      h(
        "label",
        {},
        h("span", {}, "Sample"),
        h("input", {
          name: "sample",
          id: "compare-sample",
          class: "long",
          required: true,
          autocomplete: "off",
        }),
      ),
      h("button", { type: "submit" }, "Side by side"),
    ),
    h("h2", {}, "Where the teacher disagreed most"),
    names.length
      ? h(
          "ul",
          { class: "names" },
          names.map((name) =>
            h("li", {}, h("a", { href: link("compare", { sample: name }) }, name)),
          ),
        )
      : empty("Nothing has been trained yet."),
  ];
}

function figures(runs) {
  const head = h(
    "tr",
    {},
    h("th", { scope: "col" }, ""),
    runs.map((run) =>
      h("th", { scope: "col" }, h("span", { class: `key ${run.color}` }, run.name)),
    ),
  );
  const rows = FIGURES.map(([title, key, format]) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, title),
      runs.map((run) => h("td", {}, format(run.summary?.[key]))),
    ),
  );
  return h(
    "div",
    { class: "wide", tabindex: 0 },
    h("table", {}, h("thead", {}, head), h("tbody", {}, rows)),
  );
}

async function sidesOf(params, runs) {
  const occasions = await Promise.all(runs.map((run) => occasionsOf(run, params.sample)));
  const all = occasions.flat();
  if (!all.length) return empty("Neither run has trained this sample (yet).");
  const [left, right] = chosen(params, occasions);
  const groups = await Promise.all(
    [left, right].map(
      (side) => side && ask("group", { run: side.run.key, step: side.step, group: side.group }),
    ),
  );
  const color = params.color in METRICS ? params.color : "divergence";
  const full = fullColor(
    color,
    groups.filter(Boolean).flatMap((group) => group.trajectories),
  );
  const panel = tokenPanel();
  const choose = (name) => go("compare", { ...readState().params, color: name });
  const { sample } = groups.find(Boolean);
  const side = left ?? right;
  const shot = { run: side.run.key, sample: sample.sample_id, view: "full", group: side.group };
  return [
    h(
      "div",
      { class: "shared" },
      picture(shot, "the whole picture", sample),
      h("p", { class: "question" }, sample.question),
    ),
    colorChoice(color, full, choose),
    h(
      "div",
      { class: "sides" },
      sideOf("left", left, groups[0], all, params, color, full, panel),
      sideOf("right", right, groups[1], all, params, color, full, panel),
    ),
    panel.element,
  ];
}

/** When a run trained a sample, in the order of steps: [{run, step, group, name}]. */
async function occasionsOf(run, sample) {
  const { rows } = await ask("trajectories", {
    run: run.key,
    sample,
    sort: "step",
    order: "asc",
    limit: PAGE,
    offset: 0,
  });
  const names = new Map(
    rows
      .filter((row) => row.sample_id === sample)
      .map((row) => [`${run.key}:${row.step}:${row.group_id}`, row]),
  );
  return [...names].map(([name, row]) => ({ run, step: row.step, group: row.group_id, name }));
}

function chosen(params, occasions) {
  const all = occasions.flat();
  const named = (name) => all.find((one) => one.name === name);
  const [ofA, ofB] = occasions;
  const left = named(params.left) ?? ofA[0] ?? null;
  const last = (ofB ?? ofA).at(-1) ?? null;
  const right =
    named(params.right) ?? (left && left.run === ofB?.at(-1)?.run ? (ofA.at(-1) ?? null) : last);
  return [left, right];
}

function sideOf(name, side, group, all, params, color, full, panel) {
  if (!side) return h("section", {}, empty("This run has not trained the sample (yet)."));
  const change = (event) => go("compare", { ...readState().params, [name]: event.target.value });
  const options = all.map((one) =>
    h("option", { value: one.name, selected: one === side }, `${one.run.name}, step ${one.step}`),
  );
  const place = { run: side.run.key, step: group.step, group: group.group_id };
  return h(
    "section",
    { "aria-label": name },
    h(
      "h2",
      { class: `key ${side.run.color}` },
      h("select", { "aria-label": `${name} side`, id: `side-${name}`, onchange: change }, options),
    ),
    group.trajectories.map((one) => response(one, color, full, panel, place, false)),
  );
}
