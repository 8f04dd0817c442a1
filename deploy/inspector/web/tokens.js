// Responses as tokens coloured by a figure, and what is known of the token that is looked at.

import { h } from "./dom.js";
import { figure, isNumber, nats, probability, quantile, visible } from "./format.js";
import { ask, recorded } from "./source.js";
import { note, readState } from "./state.js";

/** What tokens can be coloured by: title, value, the value of full colour at the least, help. */
export const METRICS = {
  divergence: {
    title: "Divergence",
    value: (token) => token.divergence,
    least: 0.05,
    help: "teacher against student, nats",
  },
  drift: {
    title: "Drift",
    value: driftOf,
    least: 0.02,
    help: "|learner's - rollout's log-prob|, nats",
  },
  gain: {
    title: "Gain",
    value: gainOf,
    least: 0.2,
    help: "teacher's minus student's log-prob of the token, nats: blue where the teacher likes it better",
  },
  entropy: {
    title: "Entropy",
    value: (token) => token.entropy,
    least: 0.2,
    help: "of the student, nats",
  },
};

const MEANINGS = {
  ...Object.fromEntries(Object.entries(METRICS).map(([name, { help }]) => [name, help])),
  weight: "importance weight: exp(learner's - rollout's log-prob), truncated as configured",
  version: "step of the weights that this token was sampled from",
};

export function driftOf(token) {
  return isNumber(token.student) && isNumber(token.rollout)
    ? Math.abs(token.student - token.rollout)
    : null;
}

export function gainOf(token) {
  return isNumber(token.student) && isNumber(token.teacher) ? token.teacher - token.student : null;
}

/** The value that gets the strongest colour in some responses. */
export function fullColor(metric, trajectories) {
  const { value, least } = METRICS[metric];
  const sizes = trajectories.flatMap((one) =>
    one.tokens.map((token) => Math.abs(value(token) ?? 0)),
  );
  return Math.max(least, quantile(sizes, 0.98));
}

/** The choice of the colours' figure, and their scale. choose: called with the name. */
export function colorChoice(chosen, full, choose) {
  const buttons = Object.entries(METRICS).map(([name, { title, help }]) =>
    h(
      "button",
      {
        type: "button",
        id: `color-${name}`,
        "aria-pressed": String(name === chosen),
        title: help,
        onclick: () => choose(name),
      },
      title,
    ),
  );
  const signs = chosen === "gain" ? [`\u2212${figure(full)}`, figure(full)] : ["0", figure(full)];
  const scale = h(
    "span",
    { class: `scale ${chosen}` },
    h("i", {}, signs[0]),
    h("b", {}),
    h("i", {}, `${signs[1]} nats`),
  );
  return h(
    "div",
    { class: "choice", role: "group", "aria-label": "Colour tokens by" },
    h("span", { class: "label" }, "Colour"),
    buttons,
    scale,
  );
}

/**
 * One response.
 *
 * place: {run, step, group}. panel: shows a token, as `tokenPanel` makes it.
 * isOpen: it is the one that was asked for.
 */
export function response(trajectory, metric, full, panel, place, isOpen) {
  const text = h("div", {
    class: "tokens",
    role: "group",
    "aria-label": `Tokens of response ${trajectory.index}; arrow keys move`,
  });
  const elements = trajectory.tokens.map((token, at) => tokenOf(token, at, metric, full));
  const starts = new Map((trajectory.spans ?? []).map(([version, start]) => [start, version]));
  elements.forEach((element, at) =>
    text.append(...(starts.has(at) ? [versionMark(starts.get(at))] : []), element),
  );
  if (!elements.length) text.append(trajectory.text || "\u2205");
  const look = (at, isChosen) => {
    panel.show({ trajectory, at, place, element: elements[at] });
    if (isChosen) note({ ...readState().params, index: trajectory.index, token: at });
  };
  listen(text, elements, look);
  elements[0]?.setAttribute("tabindex", 0);
  const head = h(
    "header",
    {},
    h("b", {}, `#${trajectory.index}`),
    h(
      "span",
      { class: trajectory.finish === "length" ? "wrong" : "" },
      trajectory.finish === "length" ? "cut at the length limit" : trajectory.finish,
    ),
    h("span", {}, `${trajectory.tokens.length} tokens`),
    h("span", {}, `staleness ${figure(trajectory.staleness)}`),
    h("span", {}, `divergence ${nats(mean(trajectory, METRICS.divergence.value))}`),
    h("span", {}, `drift ${nats(mean(trajectory, driftOf), 4)}`),
  );
  return h(
    "article",
    { class: `response${isOpen ? " asked" : ""}`, id: `response-${trajectory.index}` },
    head,
    text,
  );
}

function mean(trajectory, value) {
  const found = trajectory.tokens.map(value).filter(isNumber);
  return found.length ? found.reduce((sum, one) => sum + one, 0) / found.length : null;
}

function tokenOf(token, at, metric, full) {
  const value = METRICS[metric].value(token) ?? 0;
  const strength = Math.min(1, Math.abs(value) / full).toFixed(2);
  const tone = metric === "gain" && value > 0 ? "liked" : "";
  return h(
    "span",
    { class: `token ${tone}`, "data-at": at, tabindex: -1, style: { "--strength": strength } },
    visible(token.text),
  );
}

function versionMark(version) {
  return h(
    "span",
    { class: "version", title: `from here on by the weights of step ${version}` },
    `v${version}`,
  );
}

function listen(text, elements, look) {
  const at = (event) => event.target.closest?.(".token")?.dataset.at;
  text.addEventListener(
    "pointerover",
    (event) =>
      at(event) !== undefined && event.pointerType === "mouse" && look(Number(at(event)), false),
  );
  text.addEventListener(
    "focusin",
    (event) => at(event) !== undefined && look(Number(at(event)), false),
  );
  text.addEventListener(
    "click",
    (event) => at(event) !== undefined && look(Number(at(event)), true),
  );
  text.addEventListener("keydown", (event) => {
    if (at(event) === undefined) return;
    const here = Number(at(event));
    const to = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: elements.length - 1 }[
      event.key
    ];
    if (event.key === "Enter" || event.key === " ") look(here, true);
    else if (to === undefined || !elements[to]) return;
    else {
      elements[here].setAttribute("tabindex", -1);
      elements[to].setAttribute("tabindex", 0);
      elements[to].focus();
    }
    event.preventDefault();
    event.stopPropagation();
  });
}

/** The place where a token's figures are shown: {element, show, redraw}. */
export function tokenPanel() {
  const element = h(
    "aside",
    { class: "panel", "aria-label": "Token", "aria-live": "polite" },
    h(
      "p",
      { class: "empty" },
      "Point at a token, or tap it: its log-probs, weight and version are shown here.",
    ),
  );
  let shown = null;
  const show = (looked) => {
    shown?.element?.classList.remove("looked");
    shown = looked;
    looked.element?.classList.add("looked");
    element.replaceChildren(...figuresOf(looked, panel).flat());
  };
  const panel = { element, show, redraw: () => show(shown) };
  return panel;
}

function figuresOf({ trajectory, at, place }, panel) {
  const token = trajectory.tokens[at];
  const span = (trajectory.spans ?? []).find(([, start, end]) => at >= start && at < end);
  const age = span && isNumber(place.step) ? place.step - 1 - span[0] : null;
  const sides = [
    ["rollout", token.rollout],
    ["learner", token.student],
    ["teacher", token.teacher],
  ];
  const figures = [
    ["drift", nats(driftOf(token), 4)],
    ["gain", nats(gainOf(token))],
    ["divergence", nats(token.divergence, 4)],
    ["entropy", nats(token.entropy)],
    ["weight", nats(token.weight)],
    ["version", span ? `${span[0]}${age > 0 ? ` (${age} old)` : ""}` : "\u2013"],
  ];
  return [
    h(
      "h3",
      {},
      h("code", {}, visible(token.text) || "\u2205"),
      h("small", {}, `token ${at} of #${trajectory.index}, id ${token.id}`),
    ),
    h(
      "table",
      {},
      h(
        "tbody",
        {},
        sides.map(([name, value]) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, name),
            h("td", {}, h("b", {}, probability(Math.exp(value ?? NaN)))),
            h("td", {}, `${nats(value)} nats`),
          ),
        ),
      ),
    ),
    h(
      "dl",
      {},
      figures.map(([name, value]) =>
        h("div", { title: MEANINGS[name] }, h("dt", {}, name), h("dd", {}, value)),
      ),
    ),
    recorded ? [] : topTokens({ trajectory, at, place }, panel),
  ];
}

// ---- top tokens: computed when they are asked for, kept while the page is open --------------------
const scores = new Map(); // response > answer of the server
const POLL_MS = 1500;

function topTokens(looked, panel) {
  const { trajectory, at, place } = looked;
  const params = { run: place.run, step: place.step, group: place.group, index: trajectory.index };
  const key = JSON.stringify(params);
  const found = scores.get(key);
  const compute = () => fetchScores(key, params, panel);
  if (!found)
    return h(
      "button",
      { type: "button", class: "compute", onclick: compute },
      "Compute the top tokens",
    );
  if (found.state === "working") {
    found.panel = panel;
    return h("p", { class: "working" }, "Computing the top tokens of this response ...");
  }
  if (found.state !== "done")
    return [
      h("p", { class: "empty" }, found.reason ?? "not possible"),
      h("button", { type: "button", class: "compute", onclick: compute }, "Try again"),
    ];
  const position = found.positions[at];
  if (!position) return h("p", { class: "empty" }, "nothing was computed for this token");
  return [
    h(
      "div",
      { class: "tops" },
      topList("student", position.student, trajectory.tokens[at]),
      topList("teacher", position.teacher, trajectory.tokens[at]),
    ),
    h(
      "small",
      {},
      `by the ${found.is_exact ? "very weights of this step" : "nearest kept weights, of step " + found.checkpoint_step}`,
    ),
  ];
}

function topList(name, tokens, sampled) {
  const rows = tokens.map(([text, share, id]) =>
    h(
      "li",
      {
        class: id === sampled.id ? "sampled" : "",
        style: { "--share": `${(100 * share).toFixed(1)}%` },
      },
      h("code", {}, visible(text)),
      h("span", {}, probability(share)),
    ),
  );
  return h("section", {}, h("h4", {}, name), h("ol", {}, rows));
}

/** Ask until there is an answer, or its response is no longer shown. */
async function fetchScores(key, params, panel) {
  const mine = { state: "working", panel };
  scores.set(key, mine);
  panel.redraw();
  while (mine.panel.element.isConnected) {
    const answer = await ask("scores", params).catch((error) => ({
      state: "impossible",
      reason: error.message,
    }));
    if (answer.state !== "working") {
      scores.set(key, answer);
      mine.panel.redraw();
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  scores.delete(key); // the server computes on; what is asked again is soon there
}
