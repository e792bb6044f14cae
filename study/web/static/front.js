// The front as a chart: what is drawn, and what a pointer on it means.
import { colors, plain } from "./dom.js";

export const KINDS = [
  { key: "lifted", label: "lifted", color: "lifted", symbol: "triangle-up" },
  { key: "traded", label: "traded", color: "traded", symbol: "diamond" },
  { key: "levelled-down", label: "levelled-down", color: "levelled", symbol: "triangle-down" },
  { key: "unchanged", label: "unchanged", color: "unchanged", symbol: "circle" },
  { key: "unknown", label: "rates unknown", color: "quiet", symbol: "square" },
  { key: "noise", label: "no better than noise", color: "noise", symbol: "circle-open" },
];
const NOISE = 5;
const MOST_VECTOR = 700;
const MOST_BARS = 150;
const CORNERS = 28;

export function kindOf(view, i) {
  return view.control[i] === 1 ? NOISE : view.level[i];
}

export function valuesOf(column) {
  return column.mean ?? column.value;
}

export function titleOf(view, metric) {
  return view.axes.find((axis) => axis.id === `metric:${metric}`)?.title ?? metric.replaceAll("_", " ");
}

// Which points keep the reader's constraints; a limit that is null asks nothing.
export function keeps(view, limits) {
  const erm = view.references[0]?.metrics ?? {};
  const mean = (name) => view.columns[`metric:${name}`]?.mean;
  const tests = [];
  if (limits.drop !== null && erm.accuracy?.mean !== undefined) {
    const accuracy = mean("accuracy");
    tests.push((i) => accuracy[i] !== null && erm.accuracy.mean - accuracy[i] <= limits.drop + 1e-9);
  }
  if (limits.gap !== null) {
    const gap = mean("eo_gap");
    tests.push((i) => gap[i] !== null && gap[i] <= limits.gap + 1e-9);
  }
  if (limits.psnr !== null) {
    const psnr = mean("psnr_db");
    tests.push((i) => psnr[i] !== null && psnr[i] >= limits.psnr - 1e-9);
  }
  return { active: tests.length > 0, kept: view.trials.map((_, i) => tests.every((test) => test(i))) };
}

// The front among the kept points: the server's own, unless a constraint leaves some out.
export function frontOf(view, { active, kept }) {
  if (!active) return view.front.map(Boolean);
  const columns = view.goals.map((goal) => view.columns[`metric:${goal.name}`].mean);
  const signs = view.goals.map((goal) => (goal.direction === "minimize" ? 1 : -1));
  const rows = [];
  kept.forEach((keep, i) => {
    const point = columns.map((column, k) => (column[i] === null ? null : signs[k] * column[i]));
    if (keep && view.feasible[i] && !point.includes(null)) rows.push([i, point]);
  });
  rows.sort((a, b) => {
    for (let k = 0; k < a[1].length; k += 1) if (a[1][k] !== b[1][k]) return a[1][k] - b[1][k];
    return a[0] - b[0];
  });
  const front = new Array(kept.length).fill(false);
  const best = [];
  for (const [i, point] of rows) {
    const beaten = best.some((other) =>
      other.every((v, k) => v <= point[k]) && other.some((v, k) => v < point[k]));
    if (beaten) continue;
    best.push(point);
    front[i] = true;
  }
  return front;
}

function points(view, indices, state) {
  const [x, y] = [view.columns[state.x], view.columns[state.y]].map(valuesOf);
  return { x: indices.map((i) => x[i]), y: indices.map((i) => y[i]), customdata: indices };
}

function bars(column, indices, color) {
  if (!column.mean) return undefined;
  return {
    type: "data", symmetric: false, color, thickness: 1, width: 0,
    array: indices.map((i) => column.high[i] - column.mean[i]),
    arrayminus: indices.map((i) => column.mean[i] - column.low[i]),
  };
}

// A 95 % interval each way, drawn as the ellipse with these half-axes.
function ellipses(view, indices, state, color) {
  const [a, b] = [view.columns[state.x], view.columns[state.y]];
  const x = [], y = [];
  for (const i of indices) {
    const half = [a, b].map((c) => (c.mean ? [c.mean[i] - c.low[i], c.high[i] - c.mean[i]] : [0, 0]));
    const at = [a, b].map((c) => valuesOf(c)[i]);
    for (let k = 0; k <= CORNERS; k += 1) {
      const [cos, sin] = [Math.cos((2 * Math.PI * k) / CORNERS), Math.sin((2 * Math.PI * k) / CORNERS)];
      x.push(at[0] + cos * half[0][cos < 0 ? 0 : 1]);
      y.push(at[1] + sin * half[1][sin < 0 ? 0 : 1]);
    }
    x.push(null);
    y.push(null);
  }
  return {
    type: "scatter", mode: "lines", x, y, hoverinfo: "skip", showlegend: false,
    line: { color, width: 1 }, opacity: 0.55,
  };
}

function traces(view, state, shade) {
  const { kept } = state.kept;
  const many = view.trials.length > MOST_VECTOR;
  const groups = KINDS.map(() => ({ front: [], rest: [] }));
  const left = [];
  view.trials.forEach((_, i) => {
    if (!kept[i]) left.push(i);
    else groups[kindOf(view, i)][state.front[i] ? "front" : "rest"].push(i);
  });
  const onFront = groups.flatMap((group) => group.front);
  const made = [];
  if (left.length) {
    made.push({
      type: many ? "scattergl" : "scatter", mode: "markers", name: "outside the constraints",
      ...points(view, left, state), hoverinfo: "none",
      marker: { size: 5, color: shade.quiet, opacity: 0.22 },
    });
  }
  KINDS.forEach((kind, k) => {
    const { rest, front } = groups[k];
    const marker = { color: shade[kind.color], symbol: kind.symbol };
    const common = { mode: "markers", hoverinfo: "none", legendgroup: kind.key, name: kind.label };
    if (rest.length) {
      made.push({
        ...common, type: many ? "scattergl" : "scatter", ...points(view, rest, state),
        showlegend: !front.length, marker: { ...marker, size: many ? 6 : 9, opacity: many ? 0.45 : 0.7 },
      });
    }
    if (front.length) {
      const few = onFront.length <= MOST_BARS && state.bars === "bars";
      made.push({
        ...common, type: "scatter", ...points(view, front, state),
        error_x: few ? bars(view.columns[state.x], front, shade.quiet) : undefined,
        error_y: few ? bars(view.columns[state.y], front, shade.quiet) : undefined,
        marker: { ...marker, size: 13, line: { width: kind.key === "noise" ? 2 : 1.2, color: kind.key === "noise" ? shade.noise : shade.card } },
      });
    }
  });
  if (state.bars === "ellipses") {
    made.unshift(ellipses(view, onFront.slice(0, MOST_BARS), state, shade.quiet));
  }
  const at = new Map(view.trials.map((trial, i) => [trial, i]));
  const confirmed = view.confirmed.filter((trial) => at.has(trial)).map((trial) => at.get(trial));
  if (confirmed.length) {
    made.push({
      type: "scatter", mode: "markers", name: "confirmed on the test split",
      ...points(view, confirmed, state), hoverinfo: "skip",
      marker: { size: 21, symbol: "circle-open", color: shade.ink, line: { width: 1.6 } },
    });
  }
  const chosen = [...state.compare, state.trial].filter((trial) => at.has(trial)).map((trial) => at.get(trial));
  if (chosen.length) {
    made.push({
      type: "scatter", mode: "markers", name: "chosen", showlegend: false,
      ...points(view, chosen, state), hoverinfo: "skip",
      marker: { size: 26, symbol: "square-open", color: shade.accent, line: { width: 2.2 } },
    });
  }
  return [...made, ...references(view, state, shade)];
}

function references(view, state, shade) {
  return view.references.flatMap((reference, k) => {
    const ends = [state.x, state.y].map((axis) => reference.metrics[axis.replace("metric:", "")]);
    if (ends.some((end) => end?.mean === undefined)) return [];
    const [x, y] = ends.map((end) => ({
      type: "data", symmetric: false, color: shade.erm, thickness: 1, width: 0,
      array: [end.high - end.mean], arrayminus: [end.mean - end.low],
    }));
    return [{
      type: "scatter", mode: "markers+text", name: plain(reference.label), text: [plain(reference.label)],
      textposition: "top right", textfont: { color: shade.erm },
      x: [ends[0].mean], y: [ends[1].mean], hoverinfo: "none", customdata: [-1 - k],
      error_x: state.bars === "none" ? undefined : x, error_y: state.bars === "none" ? undefined : y,
      marker: { size: 13, symbol: k ? "cross" : "x", color: shade.erm },
    }];
  });
}

function axis(view, id, shade) {
  const known = view.axes.find((one) => one.id === id);
  const better = { minimize: " (lower is better)", maximize: " (higher is better)" }[known?.better] ?? "";
  const values = valuesOf(view.columns[id]);
  const numbers = values.filter((value) => typeof value === "number" && value > 0);
  const spread = numbers.length === values.length && known?.kind === "parameter"
    && Math.max(...numbers) / Math.min(...numbers) > 50;
  return {
    title: { text: plain((known?.title ?? id) + better), standoff: 8 }, type: spread ? "log" : undefined,
    gridcolor: shade.grid, linecolor: shade.line, zerolinecolor: shade.line, automargin: true,
  };
}

let loading = null;

// Plotly is large, and takes a second to start: its file is fetched at once, and run when called for.
export function plotly() {
  loading ??= new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = document.getElementById("plotly").href;
    script.addEventListener("load", done);
    script.addEventListener("error", () => failed(new Error("the charts could not be loaded")));
    document.head.append(script);
  });
  return loading;
}

export function painted() {
  return new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
}

// Draw the front; resolves once it is on the screen.
export async function drawFront(place, view, state) {
  await plotly();
  if (!place.classList.contains("js-plotly-plot")) place.replaceChildren();
  const shade = colors();
  const narrow = place.clientWidth < 520;
  const erm = view.references[0]?.metrics ?? {};
  const line = (id, side) => {
    const end = erm[id.replace("metric:", "")];
    if (end?.mean === undefined) return [];
    const along = side === "x" ? { x0: end.mean, x1: end.mean, yref: "paper", y0: 0, y1: 1 }
      : { y0: end.mean, y1: end.mean, xref: "paper", x0: 0, x1: 1 };
    return [{ type: "line", layer: "below", line: { color: shade.quiet, width: 1, dash: "dot" }, ...along }];
  };
  await window.Plotly.react(place, traces(view, state, shade), {
    margin: { l: 56, r: 12, t: narrow ? 30 : 8, b: narrow ? 130 : 84 },
    paper_bgcolor: "transparent", plot_bgcolor: "transparent",
    font: { color: shade.ink, family: "inherit", size: narrow ? 11 : 13 },
    xaxis: axis(view, state.x, shade), yaxis: axis(view, state.y, shade),
    legend: { orientation: "h", y: 0, yref: "container", yanchor: "bottom", font: { size: 12 }, itemsizing: "constant" },
    modebar: { bgcolor: "transparent", color: shade.quiet, activecolor: shade.accent },
    shapes: [...line(state.x, "x"), ...line(state.y, "y")],
    hovermode: "closest", dragmode: narrow ? "pan" : "zoom",
    uirevision: `${view.study} ${view.disease} ${state.x} ${state.y}`,
  }, { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d"], scrollZoom: false });
  await painted();
  performance.mark("ude-front");
}
