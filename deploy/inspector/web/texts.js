// Explain and plan: what the commands of these names say.

import { empty, h } from "./dom.js";
import { ask } from "./source.js";

export async function explain(params, runs) {
  const answers = await Promise.all(runs.map((run) => ask("explain", { run: run.key })));
  const parts = answers.map(({ sentence, text }, place) => [
    named(runs, place),
    sentence && h("p", { class: "sentence" }, sentence),
    text && h("pre", { class: "wide", tabindex: 0 }, withoutStart(text, sentence)),
  ]);
  return h(
    "div",
    {},
    h("h1", {}, "Explain"),
    h(
      "div",
      { class: "beside" },
      parts.map((part) => h("section", {}, part)),
    ),
  );
}

/** The text without the sentence that stands above it. */
function withoutStart(text, sentence) {
  return text.startsWith(sentence) ? text.slice(sentence.length).trimStart() : text;
}

export async function plan(params, runs) {
  const answers = await Promise.all(runs.map((run) => ask("plan", { run: run.key })));
  const parts = answers.map(({ text }, place) => [
    named(runs, place),
    text
      ? h("pre", { class: "wide", tabindex: 0 }, text)
      : empty("This run has no plan. python -m deploy.plan --json RUN/plan.json makes one."),
  ]);
  return h(
    "div",
    {},
    h("h1", {}, "Plan"),
    h(
      "div",
      { class: "beside" },
      parts.map((part) => h("section", {}, part)),
    ),
  );
}

function named(runs, place) {
  return runs.length > 1 && h("h2", { class: `key ${runs[place].color}` }, runs[place].name);
}
