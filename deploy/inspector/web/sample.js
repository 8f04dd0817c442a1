// One sample at one step: its pictures, all responses with their tokens, and where else it was trained.

import { h } from "./dom.js";
import { picture } from "./pictures.js";
import { indexNote, isHeld, listQuery, sampleLink } from "./samples.js";
import { ask, holds, PAGE, recorded } from "./source.js";
import { go, isSaid, link, readState } from "./state.js";
import { colorChoice, fullColor, METRICS, response, tokenPanel } from "./tokens.js";

export async function sample(params, runs) {
  const run = runs[0];
  const [group, neighbours] = await Promise.all([
    groupOf({ run: run.key, step: params.step, group: params.group }).catch((error) =>
      missing(run, error),
    ),
    besides(params).catch(() => ({})),
  ]);
  if (group instanceof Node) return h("div", {}, group);
  const color = params.color in METRICS ? params.color : "divergence";
  const panel = tokenPanel();
  const full = fullColor(color, group.trajectories);
  const place = { run: run.key, step: group.step, group: group.group_id };
  const responses = group.trajectories.map((one) =>
    response(one, color, full, panel, place, String(one.index) === params.index),
  );
  const choose = (name) => go("sample", { ...readState().params, color: name });
  const view = h(
    "div",
    { class: "sample" },
    header(params, run, group, runs.length > 1, neighbours),
    h(
      "div",
      { class: "of-sample" },
      about(run, group),
      h(
        "section",
        { class: "responses", "aria-label": "Responses" },
        colorChoice(color, full, choose),
        responses,
      ),
      panel.element,
    ),
  );
  setTimeout(() => showAsked(params, group, panel, place)); // when it is in the page
  return view;
}

let last = {}; // a group is long, and what was trained does not change: other colours need no new one

async function groupOf(query) {
  const key = JSON.stringify(query);
  if (last.key !== key) last = { key, group: await ask("group", query) };
  return last.group;
}

/** A word that it may come, where the index is being made. Throws the error where it will not. */
async function missing(run, error) {
  const note = recorded ? null : indexNote(await ask("trajectories", listQuery({ run: run.key })));
  if (!note) throw error;
  return note;
}

/** The token that the address names, or the response. */
function showAsked(params, group, panel, place) {
  const trajectory = group.trajectories.find((one) => String(one.index) === params.index);
  const at = Number(params.token);
  if (trajectory && isSaid(params.token) && trajectory.tokens[at]) {
    const element = document.querySelector(`#response-${trajectory.index} [data-at="${at}"]`);
    panel.show({ trajectory, at, place, element });
    element?.scrollIntoView({ block: "center" });
  }
}

function header(params, run, group, hasTwo, { before, after }) {
  const back = link("samples", {
    run: run.key,
    ...Object.fromEntries(new URLSearchParams(params.list ?? "")),
    offset: pageOf(params) || "",
  });
  const others = group.others.filter(
    (one) =>
      (one.step !== group.step || one.group_id !== group.group_id) &&
      holds("group", { run: run.key, step: one.step, group: one.group_id }),
  );
  const compared = !recorded && (hasTwo || others.length > 0);
  return h(
    "header",
    { class: "of-page" },
    h(
      "nav",
      { class: "crumbs", "aria-label": "Where this is" },
      h("a", { href: back, id: "to-list" }, "Samples"),
      before && h("a", { href: before, rel: "prev", id: "to-prev" }, "\u2190 previous"),
      after && h("a", { href: after, rel: "next", id: "to-next" }, "next \u2192"),
    ),
    h("h1", {}, group.sample.sample_id, h("small", {}, ` at step ${group.step}`)),
    h(
      "div",
      { class: "links" },
      others.length > 0 &&
        h(
          "span",
          {},
          "also trained at step ",
          others.map((one) => [
            h(
              "a",
              { href: link("sample", { run: run.key, step: one.step, group: one.group_id }) },
              one.step,
            ),
            " ",
          ]),
        ),
      compared &&
        h(
          "a",
          {
            href: link("compare", {
              sample: group.sample.sample_id,
              left: `${run.key}:${group.step}:${group.group_id}`,
            }),
          },
          "side by side",
        ),
    ),
  );
}

function about(run, group) {
  const { sample } = group;
  const of = (view) => ({ run: run.key, sample: sample.sample_id, view, group: group.group_id });
  return h(
    "section",
    { class: "about", "aria-label": "The sample" },
    picture(
      of("full"),
      sample.box ? "the whole picture, with the box of the evidence" : "the whole picture",
      sample,
    ),
    h(
      "div",
      { class: "views" },
      picture(of("student"), "as the student saw it"),
      picture(of("teacher"), "as the teacher saw it"),
    ),
    h(
      "dl",
      {},
      h("dt", {}, "question"),
      h("dd", { class: "question" }, sample.question),
      sample.answer !== null &&
        sample.answer !== undefined && [h("dt", {}, "reference"), h("dd", {}, sample.answer)],
    ),
  );
}

function pageOf(params) {
  return isSaid(params.at) ? Math.floor(Number(params.at) / PAGE) * PAGE : 0;
}

/** The addresses before and after in the list that this one was found in. */
async function besides(params) {
  if (!isSaid(params.at)) return {};
  const at = Number(params.at);
  const list = {
    run: params.run || "a",
    ...Object.fromEntries(new URLSearchParams(params.list ?? "")),
  };
  const rowAt = async (place) => {
    if (place < 0) return undefined;
    const query = listQuery({ ...list, offset: Math.floor(place / PAGE) * PAGE });
    const row = (await ask("trajectories", query)).rows[place - query.offset];
    return row && isHeld(row, query) && sampleLink(row, query, place);
  };
  const [before, after] = await Promise.all([rowAt(at - 1), rowAt(at + 1).catch(() => undefined)]);
  return { before, after };
}
