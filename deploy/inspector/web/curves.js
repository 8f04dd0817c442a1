// All curves of one run, or of two over each other.

import { lineChart } from "./charts.js";
import { empty, h } from "./dom.js";
import { ask } from "./source.js";
import { go, link, readState } from "./state.js";

const COLORS = 6;

export async function curves(params, runs) {
  const found = await Promise.all(runs.map((run) => ask("curves", { run: run.key })));
  const wanted = (params.q ?? "").toLowerCase();
  const charts = overlaid(found).filter((chart) => chart.title.toLowerCase().includes(wanted));
  const isLog = params.scale === "log";
  const pick = (step) => go("samples", { run: params.run, step_from: step, step_to: step });
  return h(
    "div",
    {},
    h("h1", {}, "Curves"),
    h(
      "div",
      { class: "bar-of-controls" },
      h("input", {
        id: "find-chart",
        type: "search",
        placeholder: "Find a chart",
        "aria-label": "Find a chart",
        value: params.q ?? "",
        oninput: (event) => retitle(event.target.value),
      }),
      h(
        "a",
        {
          class: "button",
          href: link("curves", { ...params, scale: isLog ? "" : "log" }),
          role: "switch",
          "aria-checked": String(isLog),
        },
        "Logarithmic",
      ),
      runs.length > 1 &&
        h(
          "span",
          { class: "legend" },
          runs.map((run, place) =>
            h("span", { class: `key plain${place ? " second" : ""}` }, run.name),
          ),
        ),
      h("small", {}, "A click on a step shows what it was trained on."),
    ),
    charts.length
      ? h(
          "div",
          { class: "charts" },
          charts.map((chart) => lineChart(chart, chart.series, isLog, pick)),
        )
      : empty("There is no such chart yet."),
  );
}

function retitle(q) {
  const { params } = readState();
  history.replaceState(null, "", link("curves", { ...params, q }));
  dispatchEvent(new HashChangeEvent("hashchange"));
}

/** Charts by title, in the order of the first run; the second run's lines are dashed. */
function overlaid(answers) {
  const charts = new Map();
  answers.forEach((answer, place) => {
    for (const chart of answer.charts) {
      const known = charts.get(chart.title) ?? {
        ...chart,
        lines: undefined,
        series: [],
        labels: [],
      };
      charts.set(chart.title, known);
      for (const line of chart.lines) {
        if (!known.labels.includes(line.label)) known.labels.push(line.label);
        known.series.push({
          ...line,
          color: known.labels.indexOf(line.label) % COLORS,
          isSecond: place > 0,
        });
      }
    }
  });
  return [...charts.values()];
}
