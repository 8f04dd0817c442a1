// What a run is, how far it is, what came of it.

import { lineChart } from "./charts.js";
import { each, h, mark } from "./dom.js";
import { duration, isNumber, nats, percent, visible, whole } from "./format.js";
import { picture } from "./pictures.js";
import { ask, recorded } from "./source.js";
import { go, link } from "./state.js";

const FIRST_CHARTS = ["Accuracy", "Loss"]; // shown here beside the first of all
const FULL_COLOR_NATS = 0.35; // divergence of a scene's token that gets the strongest colour
const SHOWN_QUARANTINED = 5;

export async function overview(params, runs) {
  const parts = await Promise.all(runs.map((run) => runPart(run, runs.length > 1)));
  return h("div", {}, h("h1", { class: runs.length > 1 ? "" : "only" }, "Overview"), parts);
}

async function runPart(run, isOneOfTwo) {
  const [quarantined, curves, scenes] = await Promise.all([
    ask("quarantined", { run: run.key }).catch(() => ({ total: 0, rows: [] })),
    isOneOfTwo ? { charts: [] } : ask("curves", { run: run.key }),
    ask("scenes", { run: run.key }).catch(() => ({ scenes: [] })),
  ]);
  return h(
    "section",
    { class: "run" },
    isOneOfTwo && h("h2", { class: `key ${run.color}` }, run.name),
    progress(run),
    sentence(run),
    h("div", { class: "tiles" }, tiles(run)),
    run.notes.map((line) => h("p", { class: "note" }, line)),
    quarantinedPart(run, quarantined),
    curves.charts.length
      ? h(
          "div",
          { class: "charts" },
          chosen(curves.charts).map((chart) => chartOf(chart, run)),
        )
      : null,
    sceneCards(run, scenes.scenes),
  );
}

const sentences = new Map(); // what limits a run, as last told: it takes seconds to find out

function sentence(run) {
  const box = h("p", { class: "sentence" });
  const fill = (text) =>
    box.replaceChildren(
      text,
      " ",
      text && h("a", { href: link("explain", { run: run.key }) }, "why"),
    );
  fill(sentences.get(run.key) ?? "");
  ask("explain", { run: run.key }).then(
    (answer) => {
      sentences.set(run.key, answer.sentence);
      fill(answer.sentence);
    },
    (error) => fill(error.message),
  );
  return box;
}

function progress(run) {
  const share = run.total_steps ? Math.min(1, run.step / run.total_steps) : 0;
  const of = run.total_steps ? ` of ${whole(run.total_steps)}` : "";
  return h(
    "div",
    { class: "progress" },
    h("span", { class: `state ${run.state}` }, run.state),
    h("span", {}, `step ${whole(run.step)}${of}`),
    isNumber(run.seconds) && h("span", {}, duration(run.seconds)),
    h("span", { class: "track", style: { "--share": `${100 * share}%` } }),
    h("small", {}, run.folder),
  );
}

function tiles(run) {
  const summary = run.summary ?? {};
  const found = [
    accuracyTile("full image", summary, "full", "accuracy on held-out samples"),
    accuracyTile("evidence crop", summary, "crop", "what the teacher can read"),
    ["gap closed", percent(summary.gap_closed), "of crop minus full, before"],
    [
      "steps",
      whole(summary.steps ?? run.step),
      isNumber(run.seconds) ? `in ${duration(run.seconds)}` : "",
    ],
    [
      "trajectories trained",
      whole(summary.trajectories_trained),
      `${whole(summary.trajectories_expired)} expired`,
    ],
    [
      "staleness",
      whole(summary.max_staleness_seen),
      `steps at most; ${whole(summary.max_staleness)} allowed`,
    ],
  ];
  return found.map(([name, value, remark]) =>
    h("div", {}, h("h2", {}, name), h("strong", {}, value), h("small", {}, remark)),
  );
}

function accuracyTile(name, summary, view, remark) {
  const [before, after] = ["before", "after"].map((when) => summary[`${view}_accuracy_${when}`]);
  const steps = ["before", "after"].map((when) => summary[`version_${when}`]);
  const ofSteps = steps.every(isNumber) ? `, steps ${steps[0]} and ${steps[1]}` : "";
  return [
    name,
    `${percent(before)} \u2192 ${percent(after)}`,
    `${remark}${ofSteps}${cutRemark(summary, view)}`,
  ];
}

/** A remark on answers that the length limit cut, if any was. */
function cutRemark(summary, view) {
  const shares = ["before", "after"].map((when) => [when, summary[`${view}_cut_share_${when}`]]);
  if (!shares.some(([, share]) => share)) return "";
  const told = shares
    .filter(([, share]) => isNumber(share))
    .map(([when, share]) => `${percent(share)} ${when}`);
  return `; cut at the length limit: ${told.join(", ")}`;
}

function quarantinedPart(run, quarantined) {
  if (!quarantined.total) return null;
  const rows = quarantined.rows.slice(0, SHOWN_QUARANTINED);
  return h(
    "details",
    { class: "quarantined" },
    h(
      "summary",
      {},
      `${whole(quarantined.total)} sample${quarantined.total === 1 ? "" : "s"} quarantined`,
    ),
    h(
      "ul",
      {},
      rows.map((row) => h("li", {}, h("code", {}, row.sample_id ?? ""), " ", row.reason)),
    ),
    h(
      "a",
      { href: link("samples", { run: run.key, list: "quarantined" }) },
      "all with their reasons",
    ),
  );
}

function chosen(charts) {
  const named = charts.filter((chart) => FIRST_CHARTS.includes(chart.title));
  return [...named, ...charts.slice(0, 1).filter((chart) => !named.includes(chart))];
}

function chartOf(chart, run) {
  const series = chart.lines.map((line, color) => ({ ...line, color, isSecond: false }));
  return lineChart(
    chart,
    series,
    false,
    recorded ? null : (step) => go("samples", { run: run.key, step_from: step, step_to: step }),
  );
}

function sceneCards(run, scenes) {
  if (!scenes.length) return null;
  return h(
    "section",
    { class: "scenes-part" },
    h("h2", {}, "Held-out scenes"),
    h(
      "p",
      {},
      "What the student answers, greedily, and where the teacher, looking at the crop, disagrees with each token: ",
      h("span", { class: "scale" }, h("i", {}, "not at all"), h("b", {}), h("i", {}, "strongly")),
    ),
    h(
      "div",
      { class: "scenes" },
      each(scenes, (scene, number) => sceneCard(run, scene, number)),
    ),
  );
}

function sceneCard(run, scene, number) {
  const shots = h(
    "div",
    { class: "pictures" },
    picture({ run: run.key, scene: number, view: "full" }, "the full image with the box", scene),
    picture({ run: run.key, scene: number, view: "crop" }, "the evidence crop"),
  );
  return h(
    "article",
    {},
    shots,
    h("h3", {}, String(scene.question ?? "").trim()),
    h("dl", {}, answers("before", scene.before), answers("after", scene.after)),
  );
}

function answers(name, given) {
  if (!given) return [h("dt", {}, name), h("dd", {}, h("em", {}, "not measured"))];
  const tokens = (given.full?.tokens ?? []).map((token) => {
    const strength = Math.min(1, Math.max(0, token.divergence_nats / FULL_COLOR_NATS)).toFixed(2);
    return h(
      "span",
      {
        class: "token",
        style: { "--strength": strength },
        title: `${nats(token.divergence_nats)} nats`,
      },
      visible(token.text),
    );
  });
  const text = h("span", { class: "tokens" }, tokens.length ? tokens : given.full?.text);
  const crop =
    given.crop &&
    h("small", {}, "from the crop: ", mark(given.crop.is_correct), " ", given.crop.text);
  return [h("dt", {}, name), h("dd", {}, mark(given.full?.is_correct), " ", text, crop)];
}
