// Builds elements. Texts become text nodes: nothing that a model or a data set says is read as HTML.

const SVG = "http://www.w3.org/2000/svg";
const DRAWN = new Set(["svg", "g", "line", "rect", "circle", "text", "polyline", "title"]);

/**
 * One element.
 *
 * attributes: strings and numbers are set as they are, true as an empty one; null, undefined and
 * false leave it out; functions listen ("onclick"); "style" is an object of CSS properties.
 * children: nodes, texts, numbers, lists of these; null, undefined and false are left out.
 */
export function h(tag, attributes, ...children) {
  const isDrawn = DRAWN.has(tag);
  const element = isDrawn ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) setAttribute(element, name, value);
  const isThere = (child) => child !== null && child !== undefined && child !== false;
  element.append(...children.flat(Infinity).filter(isThere));
  return element;
}

function setAttribute(element, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (typeof value === "function") {
    element.addEventListener(name.slice(2), value);
  } else if (name === "style") {
    for (const [property, set] of Object.entries(value)) element.style.setProperty(property, set);
  } else {
    element.setAttribute(name, value === true ? "" : value);
  }
}

/** What went wrong, in the words of the server. */
export function errorBox(error, retry) {
  return h(
    "div",
    { class: "error", role: "alert" },
    h("b", {}, "This could not be shown. "),
    error.message,
    retry && h("button", { type: "button", onclick: retry }, "Try again"),
  );
}

/** An element an item; where one cannot be made of it, a word on that, and the others are there. */
export function each(items, make) {
  return items.map((item, place) => {
    try {
      return make(item, place);
    } catch (error) {
      return h("article", {}, empty(`This one is damaged: ${error.message}`));
    }
  });
}

export function empty(text) {
  return h("p", { class: "empty" }, text);
}

/** A tick or a cross; nothing where no verdict is known. */
export function mark(isCorrect) {
  if (isCorrect === null || isCorrect === undefined) return null;
  const [style, sign, word] = isCorrect
    ? ["right", "\u2713", "right"]
    : ["wrong", "\u2717", "wrong"];
  return h("b", { class: style, role: "img", "aria-label": word, title: word }, sign);
}
