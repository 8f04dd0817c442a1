// All curves of one run, or of two over each other.

import { lineChart } from "./charts.js";
import { empty, h } from "./dom.js";
import { ask, recorded } from "./source.js";
import { go, note, readState } from "./state.js";

const COLORS = 6;

export async function curves(params, runs) {
  const found = await Promise.all(runs.map((run) => ask("curves", { run: run.key })));
  const charts = overlaid(found);
  const isLog = params.scale === "log";
  const pick = recorded
    ? null
    : (step) => go("samples", { run: params.run, step_from: step, step_to: step });
  const figures = charts.map((chart) => lineChart(chart, chart.series, isLog, pick));
  const none = empty("There is no such chart yet.");
  const find = (wanted) => {
    const isFound = ({ title }) => title.toLowerCase().includes(wanted.toLowerCase());
    charts.forEach((chart, place) => (figures[place].hidden = !isFound(chart)));
    none.hidden = charts.some(isFound);
  };
  find(params.q ?? "");
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
        oninput: ({ target }) => {
          find(target.value);
          note({ ...readState().params, q: target.value });
        },
      }),
      h(
        "button",
        {
          type: "button",
          id: "log-scale",
          role: "switch",
          "aria-checked": String(isLog),
          onclick: () => go("curves", { ...readState().params, scale: isLog ? "" : "log" }),
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
      pick && h("small", {}, "A click on a step shows what it was trained on."),
    ),
    h("div", { class: "charts" }, figures),
    none,
  );
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
