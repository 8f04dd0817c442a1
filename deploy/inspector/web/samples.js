// The list of what was trained: filters, orders, pages.

import { empty, h } from "./dom.js";
import { figure, nats, visible, whole } from "./format.js";
import { ask, holds, PAGE, recorded } from "./source.js";
import { go, isSaid, link } from "./state.js";

/** Lists by name, and what they are; an exported file holds these for its first rows. */
const LISTS = [
  ["Highest divergence", { sort: "divergence" }],
  ["Single tokens", { sort: "divergence_max" }],
  ["Highest drift", { sort: "drift_max" }],
  ["Most stale", { sort: "staleness" }],
  ["Longest", { sort: "length" }],
  ["Latest", { sort: "step" }],
];
const COLUMNS = [
  // heading, order, cell, style
  ["step", "step", (row) => whole(row.step)],
  ["tokens", "length", (row) => whole(row.tokens)],
  ["stale", "staleness", (row) => whole(row.staleness)],
  ["divergence", "divergence", (row) => nats(row.divergence_mean), "divergence_mean"],
  ["max", "divergence_max", (row) => nats(row.divergence_max, 2), "divergence_max"],
  ["drift", "drift", (row) => nats(row.drift_mean, 4), "drift_mean"],
  ["max", "drift_max", (row) => nats(row.drift_max, 3), "drift_max"],
  ["gain", "gain", (row) => nats(row.gain_mean)],
];
const FILTERS = ["text", "sample", "step_from", "step_to", "finish", "staleness_min", "changed"];

export async function samples(params, runs) {
  const run = runs[0];
  const chosen = { ...params, run: run.key };
  if (params.list === "quarantined") return page(chosen, await quarantined(run));
  const query = listQuery(chosen);
  const answer = await ask("trajectories", query);
  return page(chosen, table(chosen, query, answer));
}

/** The question for the list that the parameters name. */
export function listQuery(params) {
  const names = ["run", "sort", "order", ...FILTERS];
  const query = Object.fromEntries(names.map((name) => [name, params[name]]));
  return {
    ...query,
    sort: params.sort || "divergence",
    order: params.order || "desc",
    limit: PAGE,
    offset: Number(params.offset || 0),
  };
}

function page(params, content) {
  return h(
    "div",
    { class: "samples" },
    h("h1", {}, "Samples"),
    lists(params),
    recorded ? null : form(params),
    content,
  );
}

function lists(params) {
  const isQuarantined = params.list === "quarantined";
  const isPlain = !isQuarantined && (params.order || "desc") === "desc";
  const links = LISTS.map(([title, { sort }]) => {
    const isChosen = isPlain && (params.sort || "divergence") === sort;
    return h(
      "a",
      {
        href: link("samples", { ...filters(params), run: params.run, sort }),
        "aria-current": isChosen ? "true" : null,
      },
      title,
    );
  });
  const bad = h(
    "a",
    {
      href: link("samples", { run: params.run, list: "quarantined" }),
      "aria-current": isQuarantined ? "true" : null,
    },
    "Quarantined",
  );
  return h("nav", { class: "chips", "aria-label": "Lists" }, links, bad);
}

function filters(params) {
  return Object.fromEntries(FILTERS.map((name) => [name, params[name]]));
}

function form(params) {
  const input = (name, label, attributes) =>
    h(
      "label",
      {},
      h("span", {}, label),
      h("input", {
        id: `filter-${name}`,
        name,
        value: params[name] ?? "",
        autocomplete: "off",
        ...attributes,
      }),
    );
  const [first, second] = (params.changed ?? "").split(",");
  const finish = h(
    "select",
    { id: "filter-finish", name: "finish" },
    [
      ["", "any"],
      ["stop", "stop"],
      ["length", "cut"],
    ].map(([value, text]) =>
      h("option", { value, selected: (params.finish ?? "") === value }, text),
    ),
  );
  const apply = (event) => {
    event.preventDefault();
    const said = Object.fromEntries(new FormData(event.currentTarget));
    const changed =
      isSaid(said.changed_from) && isSaid(said.changed_to)
        ? `${said.changed_from},${said.changed_to}`
        : "";
    go("samples", {
      run: params.run,
      sort: params.sort,
      order: params.order,
      ...said,
      changed_from: "",
      changed_to: "",
      changed,
    });
  };
  const isFiltered = FILTERS.some((name) => isSaid(params[name]));
  return h(
    "form",
    {
      class: "filters",
      onsubmit: apply,
      onchange: (event) => event.target.tagName === "SELECT" && event.currentTarget.requestSubmit(),
      role: "search",
    },
    input("text", "Text", { type: "search", placeholder: "in the answer", class: "long" }),
    input("sample", "Sample", { placeholder: "its id", class: "medium" }),
    h(
      "span",
      { class: "pair" },
      input("step_from", "Steps from", { inputmode: "numeric" }),
      input("step_to", "to", { inputmode: "numeric" }),
    ),
    h("label", {}, h("span", {}, "Finish"), finish),
    input("staleness_min", "Stale at least", { inputmode: "numeric" }),
    h(
      "span",
      { class: "pair", title: "samples trained at both steps whose answers differ" },
      input("changed_from", "Changed from step", { inputmode: "numeric", value: first ?? "" }),
      input("changed_to", "to", { inputmode: "numeric", value: second ?? "" }),
    ),
    h("button", { type: "submit" }, "Filter"),
    isFiltered &&
      h(
        "a",
        {
          class: "button",
          href: link("samples", { run: params.run, sort: params.sort, order: params.order }),
        },
        "Clear",
      ),
  );
}

function table(params, query, answer) {
  const building = indexNote(answer);
  if (!answer.rows.length) return [empty("No trajectory is like that."), building];
  const most = (name) => Math.max(...answer.rows.map((row) => row[name] ?? 0), 1e-9);
  const scales = Object.fromEntries(
    COLUMNS.filter(([, , , name]) => name).map(([, , , name]) => [name, most(name)]),
  );
  const head = h(
    "tr",
    {},
    h("th", { scope: "col" }, "answer"),
    COLUMNS.map((column) => heading(params, query, column)),
  );
  const rows = answer.rows.map((row, number) => line(params, query, scales, row, number));
  return [
    h(
      "p",
      { class: "count", role: "status" },
      range(query.offset, answer.rows.length, answer.total, "trajectories"),
    ),
    building,
    h("table", { class: "list" }, h("thead", {}, head), h("tbody", {}, rows)),
    pager("samples", params, query.offset, answer.total, recorded ? answer.rows.length : null),
  ];
}

/** A word on trajectories that are not in the lists yet; the page then looks again. */
export function indexNote({ indexed }) {
  return indexed.is_complete
    ? null
    : h(
        "p",
        { class: "unfinished empty" },
        `The trajectories are being indexed: ${whole(indexed.rows)} so far.`,
      );
}

function heading(params, query, [title, sort]) {
  const isSorted = query.sort === sort;
  const isAscending = isSorted && query.order === "asc";
  const order = isSorted && !isAscending ? "asc" : "desc";
  const state = isSorted ? (isAscending ? "ascending" : "descending") : null;
  const label = title === "max" ? `${sort.split("_")[0]} max` : title;
  const content = recorded
    ? title
    : h(
        "a",
        {
          href: link("samples", { ...params, list: "", sort, order, offset: "" }),
          "aria-label": `sort by ${label}`,
        },
        title,
        isSorted ? (isAscending ? " \u2191" : " \u2193") : "",
      );
  return h("th", { scope: "col", "aria-sort": state }, content);
}

function line(params, query, scales, row, number) {
  const href = isHeld(row, query) ? sampleLink(row, query, query.offset + number) : null;
  const cells = COLUMNS.map(([title, sort, cell, name]) => {
    const style = name
      ? { "--strength": Math.max(0, (row[name] ?? 0) / scales[name]).toFixed(2) }
      : {};
    return h(
      "td",
      {
        class: name ? "heat" : "",
        style,
        "data-label": title === "max" ? `${sort.split("_")[0]} max` : title,
      },
      cell(row),
    );
  });
  const cut =
    row.finish === "length"
      ? h("span", { class: "wrong", title: "cut at the length limit" }, " \u2702")
      : "";
  const name = h(
    "td",
    { class: "answer" },
    h("a", { href }, visible(row.text) || "\u2205", cut),
    h("small", {}, `${row.sample_id} #${row.index}`),
  );
  return h(
    "tr",
    {
      class: href && "open",
      id: `row-${row.id}`,
      "data-href": href,
      onclick: href && (() => (location.hash = href)),
    },
    name,
    cells,
  );
}

/** Whether a row's group can be shown: an exported file holds few. */
export function isHeld(row, { run }) {
  return holds("group", { run, step: row.step, group: row.group_id });
}

/** The address of a trajectory, which knows the list that it was found in. */
export function sampleLink(row, query, at) {
  const { run, limit, offset, ...rest } = query;
  const list = link("", rest).slice(2);
  return link("sample", { run, step: row.step, group: row.group_id, index: row.index, list, at });
}

export function range(offset, number, total, what) {
  return number < total
    ? `${whole(offset + 1)} to ${whole(offset + number)} of ${whole(total)} ${what}`
    : `${whole(total)} ${what}`;
}

/** Links to the pages before and after; of an exported file there is one. */
export function pager(view, params, offset, total, held = null) {
  if (held !== null)
    return held < total
      ? h("p", { class: "empty" }, `This file holds the first ${whole(held)} of ${whole(total)}.`)
      : null;
  const to = (place, text, rel) =>
    h("a", { class: "button", rel, href: link(view, { ...params, offset: place || "" }) }, text);
  return h(
    "nav",
    { class: "pager", "aria-label": "Pages" },
    offset > 0 && to(Math.max(0, offset - PAGE), "\u2190 Previous", "prev"),
    offset + PAGE < total && to(offset + PAGE, "Next \u2192", "next"),
  );
}

async function quarantined(run) {
  const answer = await ask("quarantined", { run: run.key });
  if (!answer.total) return empty("No sample is quarantined.");
  const rows = answer.rows.map((row) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, row.sample_id ?? "\u2013"),
      h("td", { class: "reason" }, row.reason),
      h("td", {}, figure(row.attempts)),
    ),
  );
  const head = h(
    "tr",
    {},
    ["sample", "reason", "attempts"].map((text) => h("th", { scope: "col" }, text)),
  );
  return [
    h(
      "p",
      { class: "count", role: "status" },
      range(0, answer.rows.length, answer.total, "samples"),
    ),
    h("table", { class: "reasons" }, h("thead", {}, head), h("tbody", {}, rows)),
  ];
}
