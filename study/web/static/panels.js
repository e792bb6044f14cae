// One trial beside its run, and several beside each other.
import { get, noise, post } from "./api.js";
import { change, colors, el, interval, number, plain, say, show, words } from "./dom.js";

export function badge(detail) {
  const name = detail.control === "no better than noise" ? detail.control : detail.level;
  return el("span", { class: `chip ${name}` }, name);
}

function verdict(detail) {
  return el("p", { class: "choice" }, badge(detail),
    el("span", { class: "chip" }, detail.front ? "on the front" : detail.feasible ? "dominated" : "breaks a constraint"),
    detail.confirmed && el("span", { class: "chip" }, "confirmed on the test split"));
}

function difference(metric) {
  if (!metric.trial || !metric.erm) return el("td", {}, "–");
  return el("td", {}, change(metric.trial.mean - metric.erm.mean));
}

function rates(detail) {
  return el("div", { class: "rates" }, detail.groups.map((group) => [
    el("span", {}, `${group.rate.toUpperCase()} ${words(group.group)}`),
    meter(group),
    el("span", {}, group.trial ? number(group.trial.mean) : "–"),
  ]));
}

function meter(group) {
  const bar = el("i"), mark = el("b");
  bar.style.width = `${group.trial?.mean ?? 0}%`;
  mark.style.left = `${group.erm?.mean ?? 0}%`;
  return el("span", { class: "meter" }, bar, group.erm && mark);
}

// The card under the pointer.
export function tip(place, view, detail, goals) {
  show(place,
    el("div", { class: "top" },
      detail.has_noise ? el("img", { src: noise(view.study, detail.trial, true), alt: "" }) : null,
      el("div", {}, el("strong", {}, `Trial ${detail.trial}`), el("p", {}, badge(detail)),
        goals.map((goal) => {
          const metric = detail.metrics.find((one) => one.name === goal.name);
          return el("p", {}, `${metric?.title ?? words(goal.name)}: ${interval(metric?.trial)}`);
        }))),
    rates(detail),
    detail.groups.length ? el("p", { class: "quiet" }, "bar: this trial · tick: ERM") : null);
}

function facts(detail) {
  const pairs = [["method", detail.method], ["queries", number(detail.queries)],
    ...Object.entries(detail.params).filter(([name]) => name !== "name").map(([name, value]) => [words(name), number(value)])];
  return el("dl", { class: "facts" }, pairs.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

// The objectives first: they are what was searched for.
function ordered(view, metrics) {
  const goals = view.goals.map((goal) => goal.name);
  const rank = (name) => (goals.includes(name) ? goals.indexOf(name) : goals.length);
  return [...metrics].sort((a, b) => rank(a.name) - rank(b.name));
}

function metricTable(view, detail) {
  const chance = detail.confirmed?.dominance;
  const goals = new Set(view.goals.map((goal) => goal.name));
  const rows = ordered(view, detail.metrics).map((metric) => el("tr", { class: goals.has(metric.name) ? "goal" : null }, el("th", { scope: "row" }, metric.title),
    el("td", {}, interval(metric.trial)), el("td", {}, interval(metric.erm)), difference(metric)));
  const tested = detail.confirmed && [
    el("h3", {}, "On the test split"),
    el("div", { class: "scroll" }, el("table", {}, head("", "trial", "ERM", "random noise"),
      el("tbody", {}, detail.confirmed.metrics.map((m) => el("tr", {}, el("th", { scope: "row" }, m.title),
        el("td", {}, interval(m.trial)), el("td", {}, interval(m.erm)), el("td", {}, interval(m.random))))))),
    chance === null || chance === undefined ? null : el("p", { class: "small" }, `Beats ERM on every objective at once with probability ${Math.round(100 * chance)} %.`),
  ];
  return [el("div", { class: "scroll" }, el("table", {}, head("validation", "trial", "ERM", "change"), el("tbody", {}, rows))), tested];
}

function head(first, ...rest) {
  return el("thead", {}, el("tr", {}, el("th", { scope: "col" }, first), rest.map((name) => el("th", { scope: "col" }, name))));
}

export async function detailPanel(place, view, state, actions) {
  if (state.trial === null) {
    show(place, el("p", { class: "quiet" }, "Choose a point, in the chart or in the table: its rates, its noise and its MLflow run appear here."));
    return;
  }
  const trial = state.trial;
  const detail = await get(["studies", view.study, "trials", trial], { disease: view.disease });
  if (state.trial !== trial) return;
  const link = el("a", { class: "quiet" }, "looking for its MLflow run…");
  const told = el("p", { class: "small", role: "status" });
  const compared = state.compare.includes(trial);
  const exporting = el("button", { class: "main", type: "button", id: "export", onclick: () => exportTrial(view, detail, exporting, told) }, "Export this one");
  show(place,
    el("div", { class: "head" }, el("h2", { id: "detail-title", tabIndex: -1 }, `Trial ${trial} for ${words(view.disease)}`), verdict(detail)),
    el("div", { class: "actions" }, exporting,
      el("button", { type: "button", onclick: () => actions.compare(trial) }, compared ? "Take out of the comparison" : "Compare"),
      el("button", { type: "button", onclick: () => actions.choose(null) }, "Close"), link),
    told,
    el("div", { class: "detail" },
      el("div", {}, detail.has_noise ? el("img", { src: noise(view.study, trial, false), alt: `Noise map of trial ${trial}: red adds light, blue takes it away` }) : el("p", { class: "quiet" }, "Its noise is not on this machine."), facts(detail)),
      el("div", {}, rates(detail), metricTable(view, detail))));
  const found = await get(["studies", view.study, "trials", trial, "run"]).catch(() => ({}));
  if (found.run) {
    link.className = "";
    link.id = "run";
    link.href = `../#/experiments/${encodeURIComponent(found.experiment)}/runs/${encodeURIComponent(found.run)}`;
    link.textContent = "Open its MLflow run";
  } else link.textContent = "MLflow has no run of it (ude-study sync writes it)";
}

async function exportTrial(view, detail, button, told) {
  button.disabled = true;
  told.textContent = "Writing the bundle…";
  try {
    const done = await post(["studies", view.study, "export"], { disease: view.disease, trial: detail.trial });
    show(told, `${done.written ? "Written" : "Already there, unchanged"}: `, el("code", {}, done.folder), ". ",
      done.registered ? el("a", { href: `../#/models/${encodeURIComponent(done.registered.model)}/versions/${encodeURIComponent(done.registered.version)}` }, `Registered as ${done.registered.model}, version ${done.registered.version}.`) : done.note,
      done.warning ? el("strong", { class: "problem" }, ` ${done.warning}`) : null);
    say(`Trial ${detail.trial} is exported.`);
  } catch (error) {
    show(told, el("span", { class: "problem" }, `Not exported: ${error.message}`));
  } finally {
    button.disabled = false;
  }
}

export async function comparePanel(place, view, state, actions) {
  const wanted = [...state.compare];
  if (wanted.length < 2) {
    show(place, el("p", { class: "quiet" }, wanted.length ? "One more, and they stand side by side." : "Choose two to four points to compare (Compare, or shift-click in the chart)."));
    return;
  }
  const details = await Promise.all(wanted.map((trial) => get(["studies", view.study, "trials", trial], { disease: view.disease })));
  if (wanted.join() !== state.compare.join()) return;
  const names = ordered(view, details[0].metrics).map((metric) => metric.name);
  const of = (detail, name) => detail.metrics.find((metric) => metric.name === name);
  const params = [...new Set(details.flatMap((detail) => Object.keys(detail.params)))];
  const row = (title, cells) => el("tr", {}, el("th", { scope: "row" }, title), cells.map((cell) => el("td", {}, cell)));
  const chart = el("div", { class: "plot low", role: "img", "aria-label": "Rates of each group, by trial; the table above has the figures" });
  show(place,
    el("div", { class: "scroll" }, el("table", { id: "comparison" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "validation"), el("th", { scope: "col" }, "ERM"),
        details.map((d) => el("th", { scope: "col" }, `trial ${d.trial} `, el("button", { type: "button", "aria-label": `Take trial ${d.trial} out`, onclick: () => actions.compare(d.trial) }, "×"))))),
      el("tbody", {},
        row("verdict", ["–", ...details.map((d) => (d.control === "no better than noise" ? d.control : d.level))]),
        names.map((name) => row(of(details[0], name).title, [interval(of(details[0], name).erm), ...details.map((d) => interval(of(d, name)?.trial))])),
        details[0].groups.map((group, k) => row(`${group.rate.toUpperCase()} ${words(group.group)}`, [interval(group.erm), ...details.map((d) => interval(d.groups[k]?.trial))])),
        row("queries", ["0", ...details.map((d) => number(d.queries))]),
        params.map((name) => row(words(name), ["–", ...details.map((d) => number(d.params[name]))]))))),
    el("h3", {}, "Rates by group"), chart,
    el("div", { class: "maps" }, details.map((d) => el("figure", {},
      d.has_noise ? el("img", { src: noise(view.study, d.trial, false), alt: `Noise map of trial ${d.trial}` }) : el("p", { class: "quiet" }, "no noise here"),
      el("figcaption", {}, `trial ${d.trial}`)))));
  const shade = colors();
  const tints = [shade.accent, shade.traded, shade.lifted, shade.levelled];
  const bar = (name, color, pickOne) => {
    const ends = details[0].groups.map((_, k) => pickOne(k));
    return {
      type: "bar", name, marker: { color }, x: details[0].groups.map((g) => plain(`${g.rate.toUpperCase()} ${words(g.group)}`)),
      y: ends.map((e) => e?.mean ?? null),
      error_y: { type: "data", symmetric: false, thickness: 1, width: 2, color: shade.quiet, array: ends.map((e) => (e ? e.high - e.mean : 0)), arrayminus: ends.map((e) => (e ? e.mean - e.low : 0)) },
      hovertemplate: "%{x}: %{y:.1f}<extra>%{fullData.name}</extra>",
    };
  };
  await window.Plotly.react(chart, [bar("ERM", shade.quiet, (k) => details[0].groups[k].erm),
    ...details.map((d, t) => bar(`trial ${d.trial}`, tints[t], (k) => d.groups[k]?.trial))], {
    barmode: "group", margin: { l: 44, r: 8, t: 8, b: 30 }, paper_bgcolor: "transparent", plot_bgcolor: "transparent",
    font: { color: shade.ink, family: "inherit", size: 12 }, legend: { orientation: "h", y: 1.15 },
    yaxis: { title: { text: "percent" }, gridcolor: shade.grid, rangemode: "tozero" },
  }, { displayModeBar: false, responsive: true });
}
