// How the search went: hypervolume, parameters, importances.
import { get } from "./api.js";
import { colors, plain, show, el, words } from "./dom.js";
import { titleOf, valuesOf } from "./front.js";

const QUIET = { displayModeBar: false, responsive: true };

function frame(shade, more) {
  return {
    margin: { l: 60, r: 12, t: 6, b: 42 }, paper_bgcolor: "transparent", plot_bgcolor: "transparent",
    font: { color: shade.ink, family: "inherit", size: 12 }, ...more,
  };
}

export async function drawHistory(place, view, along) {
  const history = await get(["studies", view.study, "history"], { disease: view.disease });
  const shade = colors();
  const line = { type: "scatter", mode: "lines", x: history[along], y: history.hypervolume, line: { shape: "hv", color: shade.accent, width: 2 }, hovertemplate: `%{y:,.0f} after %{x:,} ${along}<extra></extra>` };
  await window.Plotly.react(place, [line], frame(shade, {
    xaxis: { title: { text: along === "trials" ? "finished trials" : "queries" }, gridcolor: shade.grid, rangemode: "tozero" },
    yaxis: { title: { text: "hypervolume" }, gridcolor: shade.grid, rangemode: "tozero", automargin: true },
  }), QUIET);
}

export async function drawImportances(place, view, goal) {
  const found = await get(["studies", view.study, "importances"], { disease: view.disease, goal });
  const shade = colors();
  if (!found.importances.length) {
    window.Plotly.purge(place);
    show(place, el("p", { class: "quiet" }, `No importances yet: ${found.why}.`));
    return;
  }
  if (!place.classList.contains("js-plotly-plot")) show(place);
  const entries = [...found.importances].reverse();
  await window.Plotly.react(place, [{
    type: "bar", orientation: "h", marker: { color: shade.accent },
    x: entries.map((e) => e.share), y: entries.map((e) => plain(words(e.name))), hovertemplate: "%{y}: %{x:.0%}<extra></extra>",
  }], frame(shade, {
    xaxis: { title: { text: `importance (PED-ANOVA, ${found.trials.toLocaleString("en-GB")} trials)` }, tickformat: ".0%", gridcolor: shade.grid, rangemode: "tozero" },
    yaxis: { automargin: true },
  }), QUIET);
}

function dimension(name, values, label = plain(words(name))) {
  const known = values.filter((value) => value !== null && value !== undefined);
  if (known.some((value) => typeof value !== "number")) {
    const kinds = [...new Set(known.map(String))].sort();
    return { label, values: values.map((v) => kinds.indexOf(String(v))), tickvals: kinds.map((_, k) => k), ticktext: kinds.map(plain) };
  }
  const [low, high] = [Math.min(...known), Math.max(...known)];
  if (low > 0 && high / low > 50) {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) ticks.push(power);
    return { label, values: values.map((v) => (v === null ? null : Math.log10(v))), range: [Math.log10(low), Math.log10(high)], tickvals: ticks, ticktext: ticks.map((t) => `1e${t}`) };
  }
  return { label, values };
}

export async function drawParallel(place, view, kept) {
  const wanted = view.params.map((name) => `param:${name}`);
  if (!wanted.length) return;
  const found = await get(["studies", view.study, "columns"], { disease: view.disease, column: wanted });
  if (found.version !== view.version) return;
  const shade = colors();
  const rows = view.trials.map((_, i) => i).filter((i) => kept[i] && view.goals.every((goal) => view.columns[`metric:${goal.name}`].mean[i] !== null));
  const some = (values) => rows.map((i) => values[i]);
  const goals = view.goals.map((goal) => dimension(goal.name, some(view.columns[`metric:${goal.name}`].mean), plain(titleOf(view, goal.name))));
  const first = some(valuesOf(view.columns[`metric:${view.goals[0].name}`]));
  if (!rows.length) return;
  await window.Plotly.react(place, [{
    type: "parcoords", labelangle: -18, labelside: "top",
    line: { color: first, colorscale: [[0, shade.lifted], [0.5, shade.unchanged], [1, shade.levelled]], reversescale: view.goals[0].direction === "maximize", showscale: false },
    dimensions: [...wanted.map((id) => dimension(id.slice(6), some(valuesOf(found.columns[id])))), ...goals],
    labelfont: { color: shade.ink, size: 12 }, tickfont: { color: shade.quiet, size: 11 }, rangefont: { color: shade.quiet, size: 10 },
  }], frame(shade, { margin: { l: 60, r: 50, t: 70, b: 24 } }), QUIET);
}
