// The URL is the state: "#samples?run=a&sort=drift". Whatever can be chosen is in it.

export function readState() {
  const [view, query] = location.hash.slice(1).split("?");
  return { view: view || "overview", params: Object.fromEntries(new URLSearchParams(query ?? "")) };
}

/** The address of a view; parameters that are empty are left out. */
export function link(view, params = {}) {
  const said = Object.entries(params).filter(([, value]) => isSaid(value));
  const query = new URLSearchParams(said).toString();
  return `#${view}${query ? `?${query}` : ""}`;
}

export function go(view, params) {
  location.hash = link(view, params);
}

/** Change the address of what is shown without showing it anew, and without a step back. */
export function note(params) {
  const { view } = readState();
  history.replaceState(null, "", link(view, params));
  dispatchEvent(new Event("noted"));
}

export function isSaid(value) {
  return value !== null && value !== undefined && value !== "";
}
