// Numbers as people read them.

const NOTHING = "\u2013";

export function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

/** Three significant digits; large ones with separators. */
export function figure(value) {
  if (!isNumber(value)) return NOTHING;
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(1);
  if (size >= 1000) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(3)));
}

export function whole(value) {
  return isNumber(value) ? Math.round(value).toLocaleString("en-US") : NOTHING;
}

export function percent(share) {
  return isNumber(share) ? `${(100 * share).toFixed(1)}%` : NOTHING;
}

/** Nats with the same number of decimals in a column. */
export function nats(value, digits = 3) {
  return isNumber(value) ? value.toFixed(digits).replace(/^-(0\.0*)$/, "$1") : NOTHING;
}

export function probability(share) {
  if (!isNumber(share)) return NOTHING;
  if (share > 0 && share < 0.0005) return "<0.1%";
  return `${(100 * share).toFixed(1)}%`;
}

export function duration(seconds) {
  if (!isNumber(seconds)) return NOTHING;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 90) return `${minutes} min ${Math.round(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48
    ? `${hours} h ${minutes % 60} min`
    : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** The value below which so large a share of the values lies; 0 without any. */
export function quantile(values, share) {
  const sorted = values.filter(isNumber).sort((one, other) => one - other);
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] : 0;
}

/** A token or text with its white space made visible. */
export function visible(text) {
  return String(text ?? "").replace(/\n/g, "\u23ce").replace(/\t/g, "\u21e5");
}
