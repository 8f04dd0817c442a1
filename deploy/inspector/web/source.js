// Where answers come from: the server beside the page, or the file that the page is in.

import { isSaid } from "./state.js";

const block = document.getElementById("recorded");
/** What an exported file holds: {"answers", "pictures", "note"}; null when a server answers. */
export const recorded = block && JSON.parse(block.textContent);
export const PAGE = 50; // rows asked for at once
const LIMIT_MS = 90_000;

/** An answer that did not come; its message is for the reader. */
export class AskError extends Error {}

const texts = new Map(); // the last answer to each question, as it came
let changes = 0;

/** How often an answer has differed from the one before. */
export function numChanges() {
  return changes;
}

/** The answer to one question, e.g. ask("curves", {run: "a"}). Throws AskError. */
export async function ask(name, params = {}) {
  const key = question(name, params);
  if (recorded) {
    if (key in recorded.answers) return recorded.answers[key];
    throw new AskError(recorded.note);
  }
  const text = await fetched(`api/${key}`);
  if (texts.get(key) !== text) changes += 1;
  texts.set(key, text);
  return JSON.parse(text);
}

/** Whether there may be an answer: an exported file holds some only. */
export function holds(name, params) {
  return !recorded || question(name, params) in recorded.answers;
}

/** The address of a picture; null when the exported file does not hold it. */
export function pictureUrl(params) {
  const key = question("picture", params);
  return recorded ? (recorded.pictures[key] ?? null) : `api/${key}`;
}

/** Why a picture did not come. */
export async function pictureFault(url) {
  try {
    await fetched(url);
  } catch (error) {
    return error.message;
  }
  return "the browser cannot show it";
}

async function fetched(url) {
  let response;
  try {
    response = await fetch(url, { signal: AbortSignal.timeout(LIMIT_MS) });
  } catch {
    throw new AskError("The inspector does not answer. Does python -m deploy.inspect still run?");
  }
  if (response.ok) return response.text();
  const answer = await response.json().catch(() => ({}));
  throw new AskError(answer.error ?? `The inspector answered with HTTP ${response.status}.`);
}

/** A question as deploy/inspector/export.py names it, too: parameters in the order of their names. */
function question(name, params) {
  const said = Object.entries(params).filter(([, value]) => isSaid(value));
  said.sort(([one], [other]) => (one < other ? -1 : 1));
  const query = said.map(([key, value]) => `${key}=${escaped(value)}`).join("&");
  return query ? `${name}?${query}` : name;
}

function escaped(value) {
  return encodeURIComponent(String(value).toWellFormed());
}
