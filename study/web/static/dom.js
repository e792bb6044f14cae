// Elements from plain values. Text is always set as text: a study's names can never become markup.

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else if (name in node && typeof value !== "string") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(9).filter((child) => child !== null && child !== undefined));
  return node;
}

export function show(place, ...children) {
  place.replaceChildren(...children.flat(9).filter((child) => child !== null && child !== undefined));
}

// Plotly reads a little markup in texts; names must stay names.
export function plain(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

export function words(name) {
  return String(name).replaceAll("_", " ");
}

export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en-GB");
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(2);
  return value.toFixed(size < 1 ? 3 : 1);
}

// A change in percentage points, with its sign.
export function change(value) {
  const size = Math.abs(value);
  return `${value < 0 ? "−" : "+"}${size.toFixed(size < 1 ? 2 : 1)}`;
}

export function interval(measured) {
  if (!measured || measured.mean === undefined) return "–";
  const digits = Math.max(...[measured.mean, measured.low, measured.high].map(Math.abs)) <= 1 ? 3 : 1;
  const [mean, low, high] = [measured.mean, measured.low, measured.high].map((v) => v.toFixed(digits));
  return low === high ? mean : `${mean} [${low}, ${high}]`;
}

let fading;
export function say(text) {
  const place = document.getElementById("said");
  place.textContent = text;
  clearTimeout(fading);
  fading = setTimeout(() => { place.textContent = ""; }, 9000);
}

export function colors() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  return Object.fromEntries(
    ["page", "card", "ink", "quiet", "line", "grid", "accent", "erm", "lifted", "traded", "levelled", "unchanged", "noise"]
      .map((name) => [name, of(name)]),
  );
}
