// Pictures of a sample, with the box of the evidence drawn over them.

import { h } from "./dom.js";
import { pictureFault, pictureUrl } from "./source.js";

/**
 * A picture with its caption; a click shows it large.
 *
 * params: of the question for it. sample: {box, image_size} to draw its box, null for none.
 */
export function picture(params, caption, sample = null) {
  const url = pictureUrl(params);
  const foot = h("figcaption", {}, caption);
  if (url === null) return h("figure", { class: "shot" }, missing("not in this file"), foot);
  const frame = h("div", { class: "frame" });
  frame.append(
    image(url, caption, () => frame.replaceWith(gone(url))),
    boxOf(sample) ?? "",
  );
  const enlarge = () => showLarge(url, caption, sample);
  const button = h(
    "button",
    { type: "button", class: "open", "aria-label": `${caption}, enlarge`, onclick: enlarge },
    frame,
  );
  return h("figure", { class: "shot" }, button, foot);
}

/** A picture the size of a line, without a word when it is not there. */
export function thumbnail(params, caption) {
  const url = pictureUrl(params);
  if (url === null) return null;
  const button = h("button", {
    type: "button",
    class: "thumb",
    "aria-label": `${caption}, enlarge`,
    onclick: () => showLarge(url, caption, null),
  });
  button.append(image(url, "", () => button.remove()));
  return button;
}

function image(url, alternative, onerror) {
  return h("img", { src: url, alt: alternative, loading: "lazy", decoding: "async", onerror });
}

function gone(url) {
  const box = missing("...");
  pictureFault(url).then((reason) => box.replaceChildren(`no picture: ${reason}`));
  return box;
}

function missing(reason) {
  return h("div", { class: "missing" }, `no picture: ${reason}`);
}

function boxOf(sample) {
  if (!sample?.box || !sample.image_size) return null;
  const [width, height] = sample.image_size;
  const [x1, y1, x2, y2] = sample.box;
  const share = (part, of) => `${((100 * part) / of).toFixed(3)}%`;
  const style = {
    left: share(x1, width),
    top: share(y1, height),
    width: share(x2 - x1, width),
    height: share(y2 - y1, height),
  };
  return h("div", { class: "evidence", style });
}

function showLarge(url, caption, sample) {
  const dialog = document.getElementById("large");
  const frame = h("div", { class: "frame" }, image(url, caption), boxOf(sample));
  dialog.replaceChildren(
    h("button", { type: "button", class: "close", onclick: () => dialog.close() }, "Close"),
    frame,
    h("p", {}, caption),
  );
  dialog.showModal();
}
