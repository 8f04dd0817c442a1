// Charts in SVG. All charts of a page show the same step; the legend has its values.

import { h } from "./dom.js";
import { figure, isNumber, percent } from "./format.js";

const WIDTH = 340;
const HEIGHT = 170;
const LEFT = 46;
const RIGHT = 10;
const TOP = 10;
const BOTTOM = 22;
const COLORS = 6;
const movers = new WeakMap(); // chart > how it shows a step

/**
 * Lines over steps, as a figure.
 *
 * chart: {title, unit, note, is_share}; series: [{label, isSecond, color, points: [[step, value]]}];
 * isLog: a logarithmic axis; values that are not above 0 are left out of it.
 * pick: called with the step that was clicked; null: nothing can be clicked.
 */
export function lineChart(chart, series, isLog, pick) {
  const drawn = series.map((one) => ({
    ...one,
    points: one.points.filter(([, y]) => isNumber(y) && !(isLog && y <= 0)),
  }));
  const some = drawn.filter((one) => one.points.length);
  const format = chart.is_share ? percent : figure;
  const head = h(
    "figcaption",
    {},
    h("b", {}, chart.title),
    " ",
    h("span", { class: "unit" }, chart.unit),
  );
  if (!some.length)
    return h(
      "figure",
      { class: "chart" },
      head,
      h("p", { class: "empty" }, isLog ? "No values above 0." : "No values yet."),
    );
  const steps = [...new Set(some.flatMap((one) => one.points.map(([x]) => x)))].sort(
    (one, other) => one - other,
  );
  const values = some.flatMap((one) => one.points.map(([, y]) => y));
  const across = linearAxis(steps[0], steps.at(-1), LEFT, WIDTH - RIGHT, 1);
  const up = isLog
    ? logAxis(values)
    : linearAxis(Math.min(0, ...values), Math.max(...values), HEIGHT - BOTTOM, TOP, 0);
  const labels = [...new Set(some.map((one) => one.label))];
  const cursor = h("g", { class: "cursor" });
  const svg = h(
    "svg",
    {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      role: "img",
      tabindex: 0,
      "aria-label": summary(chart, some, format),
      class: pick ? "picks" : "",
    },
    up.ticks.map((tick) =>
      h(
        "g",
        {},
        h("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: up.at(tick), y2: up.at(tick) }),
        h(
          "text",
          { x: LEFT - 6, y: up.at(tick) + 4, "text-anchor": "end" },
          axisLabel(tick, chart.is_share),
        ),
      ),
    ),
    across.ticks
      .filter((tick) => tick >= steps[0] && tick <= steps.at(-1))
      .map((tick) =>
        h("text", { x: across.at(tick), y: HEIGHT - 6, "text-anchor": "middle" }, figure(tick)),
      ),
    some.map((one) => lineOf(one, across, up)),
    cursor,
  );
  const legend = h("div", { class: "legend" });
  const stepLabel = h("span", { class: "step" });
  head.append(stepLabel);
  const show = (step) => {
    const near = step === null ? null : nearest(steps, step);
    cursor.replaceChildren(...(near === null ? [] : marks(near, some, across, up)));
    stepLabel.textContent = near === null ? "" : `step ${near}`;
    legend.replaceChildren(
      ...labels.map((label) =>
        key(
          some.filter((one) => one.label === label),
          near,
          format,
        ),
      ),
    );
  };
  show(null);
  const box = h(
    "figure",
    { class: "chart" },
    head,
    svg,
    legend,
    chart.note && h("small", {}, chart.note),
    tableOf(some, steps, format),
  );
  movers.set(box, show);
  follow(svg, steps, across, pick);
  return box;
}

/** Show one step in all charts of the page; null: none. */
function showEverywhere(step) {
  for (const box of document.querySelectorAll("figure.chart")) movers.get(box)?.(step);
}

function follow(svg, steps, across, pick) {
  let at = null;
  const move = (step) => {
    at = step;
    showEverywhere(step);
  };
  const under = (event) => {
    const frame = svg.getBoundingClientRect();
    return nearest(steps, across.from(((event.clientX - frame.left) / frame.width) * WIDTH));
  };
  svg.addEventListener("pointermove", (event) => move(under(event)));
  svg.addEventListener("pointerleave", () => move(null));
  svg.addEventListener("blur", () => move(null));
  svg.addEventListener("click", (event) => pick?.(under(event)));
  svg.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (way) {
      const index = at === null ? (way > 0 ? 0 : steps.length - 1) : steps.indexOf(at) + way;
      move(steps[Math.max(0, Math.min(steps.length - 1, index))]);
    } else if (event.key === "Enter" && at !== null) {
      pick?.(at);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });
}

function lineOf(one, across, up) {
  const style = `line c${one.color % COLORS}${one.isSecond ? " second" : ""}`;
  const points = one.points.map(([x, y]) => `${across.at(x)},${up.at(y)}`);
  const dots =
    one.points.length <= 25
      ? one.points.map(([x, y]) =>
          h("circle", {
            class: `dot c${one.color % COLORS}`,
            cx: across.at(x),
            cy: up.at(y),
            r: 2.2,
          }),
        )
      : [];
  return h("g", {}, h("polyline", { class: style, points: points.join(" ") }), dots);
}

function marks(step, series, across, up) {
  const line = h("line", {
    class: "at",
    x1: across.at(step),
    x2: across.at(step),
    y1: TOP,
    y2: HEIGHT - BOTTOM,
  });
  const found = series.map((one) => [one, pointAt(one, step)]).filter(([, point]) => point);
  return [
    line,
    ...found.map(([one, [x, y]]) =>
      h("circle", {
        class: `dot c${one.color % COLORS}`,
        cx: across.at(x),
        cy: up.at(y),
        r: 3.6,
      }),
    ),
  ];
}

/** A line's name with its values: of one run, or of both. */
function key(lines, step, format) {
  const values = lines.map((one) => {
    const point = step === null ? one.points.at(-1) : pointAt(one, step);
    return h("b", { class: one.isSecond ? "second" : "" }, point ? format(point[1]) : "\u2013");
  });
  return h(
    "span",
    { class: `key c${lines[0].color % COLORS}` },
    h("i", {}, lines[0].label),
    values.map((value) => [" ", value]),
  );
}

/** A line's last point up to a step: not each step has one. Undefined before it begins and after its end. */
function pointAt(one, step) {
  return step > one.points.at(-1)[0] ? undefined : one.points.findLast(([x]) => x <= step);
}

function nearest(steps, step) {
  return steps.reduce((best, one) => (Math.abs(one - step) < Math.abs(best - step) ? one : best));
}

function summary(chart, series, format) {
  const ends = series.map(
    (one) => `${one.label} from ${format(one.points[0][1])} to ${format(one.points.at(-1)[1])}`,
  );
  return `${chart.title} (${chart.unit}): ${ends.join("; ")}. Arrow keys move through the steps.`;
}

/** The same values for those who read rather than see; made when it is opened. */
function tableOf(series, steps, format) {
  const every = Math.ceil(steps.length / 100);
  const fill = (event) => {
    if (event.target.open && event.target.children.length === 1) {
      const rows = steps.filter((_, index) => index % every === 0 || index === steps.length - 1);
      const head = h(
        "tr",
        {},
        h("th", { scope: "col" }, "step"),
        series.map((one) => h("th", { scope: "col" }, one.label)),
      );
      const body = rows.map((step) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, step),
          series.map((one) => {
            const point = pointAt(one, step);
            return h("td", {}, point?.[0] === step ? format(point[1]) : "");
          }),
        ),
      );
      event.target.append(
        h(
          "div",
          { class: "wide", tabindex: 0 },
          h("table", {}, h("thead", {}, head), h("tbody", {}, body)),
        ),
      );
    }
  };
  return h("details", { ontoggle: fill }, h("summary", {}, "Table"));
}

/** Bars for one or two runs beside each other: [{label, color, bars: [{from, to, count}]}]. */
export function histogram(title, unit, series) {
  const some = series.filter((one) => one.bars.length);
  const head = h("figcaption", {}, h("b", {}, title), " ", h("span", { class: "unit" }, unit));
  if (!some.length)
    return h(
      "figure",
      { class: "chart" },
      head,
      h("p", { class: "empty" }, "Nothing has been trained yet."),
    );
  // Values are whole, and both ends of a bar belong to it.
  const low = Math.min(...some.flatMap((one) => one.bars.map((bar) => bar.from))) - 0.5;
  const high = Math.max(...some.flatMap((one) => one.bars.map((bar) => bar.to))) + 0.5;
  const shares = some.map((one) => ({
    ...one,
    total: one.bars.reduce((sum, bar) => sum + bar.count, 0) || 1,
  }));
  const across = linearAxis(low, high, LEFT, WIDTH - RIGHT, 1);
  const up = linearAxis(
    0,
    Math.max(...shares.flatMap((one) => one.bars.map((bar) => bar.count / one.total))),
    HEIGHT - BOTTOM,
    TOP,
    0,
  );
  const bars = shares.flatMap((one, place) =>
    one.bars.map((bar) => barOf(bar, one, place, shares.length, across, up)),
  );
  const svg = h(
    "svg",
    {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      role: "img",
      "aria-label": `${title}: ${shares.map((one) => `${one.label}, ${one.total} trajectories`).join("; ")}`,
    },
    up.ticks.map((tick) =>
      h(
        "g",
        {},
        h("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: up.at(tick), y2: up.at(tick) }),
        h("text", { x: LEFT - 6, y: up.at(tick) + 4, "text-anchor": "end" }, axisLabel(tick, true)),
      ),
    ),
    across.ticks.map((tick) =>
      h("text", { x: across.at(tick), y: HEIGHT - 6, "text-anchor": "middle" }, figure(tick)),
    ),
    bars,
  );
  const legend = shares.map((one) =>
    h(
      "span",
      { class: `key c${one.color}` },
      h("i", {}, one.label),
      " ",
      h("b", {}, `${figure(one.total)} trajectories`),
    ),
  );
  const rows = shares.flatMap((one) =>
    one.bars.map((bar) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, one.label),
        h("td", {}, span(bar)),
        h("td", {}, bar.count),
      ),
    ),
  );
  const table = h(
    "details",
    {},
    h("summary", {}, "Table"),
    h("div", { class: "wide", tabindex: 0 }, h("table", {}, h("tbody", {}, rows))),
  );
  return h("figure", { class: "chart" }, head, svg, h("div", { class: "legend" }, legend), table);
}

function barOf(bar, one, place, number, across, up) {
  const left = across.at(bar.from - 0.5);
  const width = (across.at(bar.to + 0.5) - left) / number;
  const gap = Math.min(1, width / 6);
  const top = up.at(bar.count / one.total);
  return h(
    "rect",
    {
      class: `bar c${one.color}`,
      x: left + place * width + gap,
      width: Math.max(0.5, width - 2 * gap),
      y: top,
      height: HEIGHT - BOTTOM - top,
    },
    h("title", {}, `${one.label}, ${span(bar)}: ${bar.count} (${percent(bar.count / one.total)})`),
  );
}

function span(bar) {
  return bar.to === bar.from ? String(bar.from) : `${figure(bar.from)} to ${figure(bar.to)}`;
}

function linearAxis(low, high, start, end, leastStep) {
  const step = Math.max(leastStep, roundStep((high - low) / 4 || Math.abs(high) / 2 || 1));
  const first = Math.floor(low / step + 1e-9);
  const last = Math.max(first + 1, Math.ceil(high / step - 1e-9));
  const ticks = Array.from({ length: last - first + 1 }, (_, index) =>
    Number(((first + index) * step).toPrecision(12)),
  );
  const isAcross = end > start;
  const from = isAcross ? low : ticks[0];
  const to = isAcross ? Math.max(high, low + 1) : ticks.at(-1);
  const at = (value) => round(start + ((value - from) / (to - from || 1)) * (end - start));
  return {
    at,
    from: (place) => from + ((place - start) / (end - start)) * (to - from),
    ticks: ticks.filter((tick) => !isAcross || (tick >= low && tick <= to)),
  };
}

function logAxis(values) {
  const first = Math.floor(Math.log10(Math.min(...values)) + 1e-9);
  const last = Math.max(first + 1, Math.ceil(Math.log10(Math.max(...values)) - 1e-9));
  const every = Math.ceil((last - first) / 5);
  const ticks = Array.from(
    { length: last - first + 1 },
    (_, index) => 10 ** (first + index),
  ).filter((_, index) => index % every === 0);
  const at = (value) =>
    round(
      HEIGHT - BOTTOM + ((Math.log10(value) - first) / (last - first)) * (TOP - HEIGHT + BOTTOM),
    );
  return { at, ticks };
}

function roundStep(step) {
  const power = 10 ** Math.floor(Math.log10(step));
  return [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= step * 0.999);
}

function round(value) {
  return Math.round(value * 100) / 100;
}

function axisLabel(value, isShare) {
  return isShare ? `${Number((100 * value).toPrecision(4))}%` : figure(value);
}
