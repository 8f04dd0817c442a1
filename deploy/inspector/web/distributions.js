// How staleness and lengths are distributed, and figures by the values of kept columns.

import { histogram } from "./charts.js";
import { h } from "./dom.js";
import { indexNote, listQuery } from "./samples.js";
import { ask } from "./source.js";

const CHARTS = [
  ["staleness", "Staleness in steps", "share of trajectories"],
  ["length", "Response tokens", "share of trajectories"],
];

export async function distributions(params, runs) {
  const found = await Promise.all(runs.map((run) => ask("histograms", { run: run.key })));
  const columns = await Promise.all(runs.map((run) => ask("columns", { run: run.key })));
  const lists = await Promise.all(
    runs.map((run) => ask("trajectories", listQuery({ run: run.key }))),
  );
  const charts = CHARTS.map(([name, title, unit]) => {
    const series = runs.map((run, place) => ({
      label: run.name,
      color: place,
      bars: found[place][name] ?? [],
    }));
    return histogram(title, unit, series);
  });
  const tables = runs.map((run, place) =>
    columns[place].tables.map((table) => columnTable(table, runs.length > 1 ? run : null)),
  );
  return h(
    "div",
    {},
    h("h1", {}, "Distributions"),
    lists.map(indexNote),
    h("div", { class: "charts" }, charts),
    tables,
  );
}

function columnTable(table, run) {
  const head = h(
    "tr",
    {},
    table.header.map((cell) => h("th", { scope: "col" }, cell)),
  );
  const rows = table.rows.map(([name, ...cells]) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, name),
      cells.map((cell) => h("td", {}, cell)),
    ),
  );
  return h(
    "section",
    {},
    h("h2", {}, table.title, run && h("span", { class: `key ${run.color}` }, run.name)),
    h("p", {}, table.note),
    h(
      "div",
      { class: "wide", tabindex: 0 },
      h("table", {}, h("thead", {}, head), h("tbody", {}, rows)),
    ),
  );
}
