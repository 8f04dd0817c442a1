// Shows the view that the address names, anew when an answer has changed, and listens to keys.

import { compare } from "./compare.js";
import { curves } from "./curves.js";
import { distributions } from "./distributions.js";
import { errorBox, h } from "./dom.js";
import { heldout } from "./heldout.js";
import { overview } from "./overview.js";
import { sample } from "./sample.js";
import { samples } from "./samples.js";
import { ask, numChanges, recorded } from "./source.js";
import { link, readState } from "./state.js";
import { explain, plan } from "./texts.js";

const VIEWS = {
  // name: title, what makes it, whether it takes both runs and changes while they go on
  overview: ["Overview", overview, { both: true, live: true }],
  curves: ["Curves", curves, { both: true, live: true }],
  distributions: ["Distributions", distributions, { both: true, live: true }],
  samples: ["Samples", samples, { live: true }],
  heldout: ["Held-out", heldout, { live: true }],
  compare: ["Compare", compare, {}],
  explain: ["Explain", explain, { both: true, live: true }],
  plan: ["Plan", plan, { both: true }],
  sample: ["Sample", sample, {}],
};
const isOneRecorded = recorded?.answers.runs?.runs.length === 1; // then nothing can be compared
const NAMES = Object.keys(VIEWS).filter(
  (name) => name !== "sample" && !(isOneRecorded && name === "compare"),
); // those in the menu
const GOING_ON = ["starting", "training"];
const REFRESH_MS = 5000;
const SOON_MS = 1000; // while trajectories are being indexed
const KEYS = [
  [`1 \u2026 ${NAMES.length}`, "the views, in the order of the menu"],
  ["j  k", "the next and the previous row of a list, or response"],
  ["Enter", "open it"],
  ["[  ]", "the previous and the next page of a list, or sample"],
  ["u", "from a sample back to its list"],
  ["d  r  g  e", "colour tokens by divergence, drift, gain, entropy"],
  ["/", "search"],
  ["\u2190  \u2192", "in a chart or a response: step by step, token by token"],
  ["?", "this list"],
];
const main = document.getElementById("view");
const source = document.getElementById("source"); // a line at the foot: where this comes from
let turn = 0; // of showing; what an older one finds is dropped
let shown = ""; // name of the view
let seenChanges = -1;
let timer = 0;
let renewHeader = () => {}; // its links keep what the address says

async function show(isRefresh) {
  clearTimeout(timer);
  const mine = ++turn;
  const { view, params } = readState();
  const name = view in VIEWS ? view : "overview";
  const [title, make, kind] = VIEWS[name];
  const slow = isRefresh ? 0 : setTimeout(() => main.classList.add("waiting"), 200);
  let content;
  let fault = "";
  let runs = [];
  try {
    runs = await askRuns();
    content = await make(params, kind.both ? wanted(runs, params) : [chosen(runs, params)], runs);
  } catch (error) {
    content = errorBox(error, () => show(false));
    fault = error.message;
  }
  clearTimeout(slow);
  if (mine !== turn) return;
  main.classList.remove("waiting");
  if (!recorded) source.textContent = isRefresh && fault ? `Not up to date: ${fault}` : "";
  if (isRefresh && fault) {
    // what was shown stays
    timer = setTimeout(refresh, REFRESH_MS);
    return;
  }
  renewHeader = () => header(runs, name, readState().params);
  renewHeader();
  if (!isRefresh || numChanges() !== seenChanges) put(content, name, isRefresh);
  seenChanges = numChanges();
  document.title = [title, ...runs.map((run) => run.name)].join(" \u00b7 ");
  const isUnfinished = runs.length === 0 || content.querySelector(".unfinished") !== null;
  const goesOn =
    !recorded && (isUnfinished || (kind.live && runs.some((run) => GOING_ON.includes(run.state))));
  if (goesOn) timer = setTimeout(refresh, isUnfinished ? SOON_MS : REFRESH_MS);
}

/** Show what is new, unless someone points at a chart, selects text or looks at a picture. */
function refresh() {
  const isBusy =
    document.hidden ||
    main.querySelector(".chart svg:hover") ||
    document.querySelector("dialog[open]");
  if (isBusy || !getSelection().isCollapsed) timer = setTimeout(refresh, REFRESH_MS);
  else show(true);
}

async function askRuns() {
  const { runs } = await ask("runs");
  return runs.map((run, place) => ({ ...run, color: `c${place}` }));
}

/** One run where one is chosen, or all. */
function wanted(runs, params) {
  const found = runs.filter((run) => run.key === params.run);
  return params.run && found.length ? found : runs;
}

function chosen(runs, params) {
  return runs.find((run) => run.key === params.run) ?? runs[0];
}

/**
 * Put what is new in the place of the old. A refresh leaves scroll, focus, what is filled in and open
 * parts as they are; another address of the same view leaves the focus where it is.
 */
function put(content, name, isRefresh) {
  const kept = name === shown ? remembered() : null;
  main.replaceChildren(content);
  if (isRefresh && kept) restore(kept);
  else if (!kept || !refocus(kept.focus)) {
    scrollTo(0, 0);
    if (shown && !kept) main.focus({ preventScroll: true });
  }
  shown = name;
}

function remembered() {
  const { activeElement } = document;
  const open = [...main.querySelectorAll("details")].map((one) => one.open);
  const isInside = main.contains(activeElement) && activeElement !== main;
  const focus = isInside
    ? { key: keyOf(activeElement), at: activeElement.selectionStart }
    : null;
  const filled = [...main.querySelectorAll("input, select")]
    .filter(isFilledIn)
    .map((one) => [keyOf(one), one.value]);
  const picked = [...main.querySelectorAll(".picked")].map(keyOf)[0];
  return { open, focus, filled, picked, top: scrollY };
}

/** Whether a reader has changed it since it was made. */
function isFilledIn(input) {
  if (input.matches("select")) return !input.selectedOptions[0]?.defaultSelected;
  return input.value !== input.defaultValue;
}

function restore({ open, focus, filled, picked, top }) {
  main.querySelectorAll("details").forEach((one, place) => (one.open = open[place] ?? false));
  if (picked) find(picked)?.classList.add("picked");
  for (const [key, value] of filled) Object.assign(find(key) ?? {}, { value });
  refocus(focus);
  scrollTo(0, top);
}

/** Whether what had the focus is there again, and has it. */
function refocus(focus) {
  const element = focus && find(focus.key);
  if (!element) return false;
  element.focus({ preventScroll: true });
  if (typeof focus.at === "number") element.setSelectionRange(focus.at, focus.at);
  return true;
}

function keyOf(element) {
  return (
    element.id ||
    element.getAttribute("href") ||
    element.dataset.href ||
    element.getAttribute("aria-label")
  );
}

function find(key) {
  return (
    key &&
    [...main.querySelectorAll("[id], [href], [data-href], [aria-label]")].find(
      (one) => keyOf(one) === key,
    )
  );
}

// ---- the top of the page -------------------------------------------------------------------------
function header(runs, name, params) {
  const { both } = VIEWS[name][2];
  const current = both ? params.run : chosen(runs, params)?.key;
  const toggles = runs.map((run) => {
    const isOn = current === run.key || (both && !params.run);
    const next = both && current === run.key ? "" : run.key; // off: both again
    const to =
      name === "sample"
        ? link("samples", { run: run.key })
        : link(name, { ...params, run: next, offset: "" });
    const label = [
      h("span", { class: `key ${run.color}` }, run.name),
      " ",
      h("small", { class: `state ${run.state}` }, run.state),
    ];
    return runs.length > 1
      ? h(
          "a",
          { href: to, class: isOn ? "on" : "off", "aria-pressed": String(isOn), role: "button" },
          label,
        )
      : h("span", {}, label);
  });
  document.getElementById("runs").replaceChildren(...toggles);
  const kept = params.run ? { run: params.run } : {};
  const views = NAMES.map((one) =>
    h(
      "a",
      {
        href: link(one, kept),
        "aria-current": one === name || (one === "samples" && name === "sample") ? "page" : null,
      },
      VIEWS[one][0],
    ),
  );
  const bar = document.getElementById("views");
  const { scrollLeft } = bar;
  bar.replaceChildren(...views);
  bar.scrollLeft = scrollLeft;
  const active = bar.querySelector("[aria-current]");
  if (active && name !== shown)
    bar.scrollLeft = active.offsetLeft - bar.clientWidth / 2 + active.clientWidth / 2;
}

// ---- keys ----------------------------------------------------------------------------------------
function onKey(event) {
  const { target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (target.matches?.("input, select, textarea")) {
    if (event.key === "Escape") target.blur();
    return;
  }
  if (document.querySelector("dialog[open]")) return;
  const isDone = act(event.key);
  if (isDone) event.preventDefault();
}

function act(key) {
  const number = "12345678".indexOf(key);
  if (NAMES[number])
    location.hash = link(
      NAMES[number],
      readState().params.run ? { run: readState().params.run } : {},
    );
  else if (key === "j" || key === "k") pick(key === "j" ? 1 : -1);
  else if (key === "Enter") return openPicked();
  else if (key === "[" || key === "]")
    return follow(
      main.querySelector(`[rel=${key === "[" ? "prev" : "next"}]`)?.getAttribute("href"),
    );
  else if (key === "u") return follow(document.getElementById("to-list")?.getAttribute("href"));
  else if (key === "/") main.querySelector("input[type=search], input")?.focus();
  else if (key === "?") document.getElementById("help").showModal();
  else return press({ d: "divergence", r: "drift", g: "gain", e: "entropy" }[key]);
  return true;
}

/** Follow the row that was picked, unless something elsewhere has the focus: Enter is for that. */
function openPicked() {
  const picked = main.querySelector(".picked");
  const { activeElement } = document;
  const isFree = [document.body, main].includes(activeElement) || picked?.contains(activeElement);
  return isFree && follow(picked?.dataset.href);
}

function follow(href) {
  if (href) location.hash = href;
  return Boolean(href);
}

function press(color) {
  const button = color && document.getElementById(`color-${color}`);
  button?.click();
  return Boolean(button);
}

function pick(way) {
  const rows = [...main.querySelectorAll("tr.open, .response, .item")];
  if (!rows.length) return;
  const at = rows.findIndex((row) => row.classList.contains("picked"));
  const next = rows[Math.max(0, Math.min(rows.length - 1, at + way))];
  rows[at]?.classList.remove("picked");
  next.classList.add("picked");
  next.scrollIntoView({ block: "nearest" });
  next.querySelector("[tabindex='0'], a")?.focus({ preventScroll: true });
}

function helpPage() {
  const rows = KEYS.map(([keys, what]) =>
    h(
      "tr",
      {},
      h(
        "th",
        { scope: "row" },
        keys.split("  ").map((one) => [h("kbd", {}, one), " "]),
      ),
      h("td", {}, what),
    ),
  );
  const dialog = document.getElementById("help");
  dialog.replaceChildren(
    h("h2", {}, "Keys"),
    h("table", {}, h("tbody", {}, rows)),
    h("button", { type: "button", class: "close", onclick: () => dialog.close() }, "Close"),
  );
}

helpPage();
document
  .getElementById("show-keys")
  .addEventListener("click", () => document.getElementById("help").showModal());
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address is the state
  main.focus();
});
addEventListener("keydown", onKey);
addEventListener("hashchange", () => show(false));
addEventListener("noted", () => renewHeader());
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
}
if (recorded) source.textContent = recorded.note;
show(false);
