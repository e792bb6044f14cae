// One study: what is chosen, what is known, and how both reach the screen.
import { get } from "./api.js";
import { drawHistory, drawImportances, drawParallel } from "./charts.js";
import { controls } from "./controls.js";
import { el, interval, number, say, show } from "./dom.js";
import { drawFront, frontOf, keeps, kindOf, KINDS, painted, titleOf } from "./front.js";
import { sketch } from "./sketch.js";
import { comparePanel, detailPanel, tip } from "./panels.js";

const SOON = 2000;
const LATER = 10000;
const MOST_COMPARED = 4;
const MOST_ROWS = 200;
const ALWAYS = ["metric:accuracy", "metric:eo_gap", "metric:psnr_db"];

function fresh() {
  return { disease: null, x: null, y: null, bars: "bars", limits: { drop: null, gap: null, psnr: null }, compare: [], trial: null, along: "trials", goal: null };
}

// The page of one study, drawn into `main`. `remember` keeps what was chosen in the address.
export class StudyPage {
  constructor(main, study, query, remember) {
    Object.assign(this, { main, study, remember, view: null, stopped: false, state: fresh() });
    for (const name of ["disease", "x", "y", "bars"]) if (query.get(name)) this.state[name] = query.get(name);
    if (query.get("trial")) this.state.trial = Number(query.get("trial"));
    if (query.get("compare")) this.state.compare = query.get("compare").split(",").map(Number).slice(0, MOST_COMPARED);
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.recolor = () => this.view && this.drawAll();
    this.scheme.addEventListener("change", this.recolor);
  }

  async open() {
    if (!this.state.disease) {
      const { studies } = await get(["studies"]);
      const own = studies.find((one) => one.study === this.study);
      this.state.disease = own?.diseases?.[0] ?? "mean";
    }
    await this.fetchFront();
    this.build();
    await this.drawAll();
    this.poll();
  }

  close() {
    this.stopped = true;
    clearTimeout(this.timer);
    this.scheme.removeEventListener("change", this.recolor);
    this.tip?.remove();
  }

  columns() {
    const goals = (this.view?.goals ?? []).map((goal) => `metric:${goal.name}`);
    return [...new Set([...ALWAYS, ...goals, this.state.x, this.state.y].filter(Boolean))];
  }

  async fetchFront() {
    const wanted = this.columns();
    let view = await get(["studies", this.study, "front"], { disease: this.state.disease, column: wanted });
    const goals = view.goals.map((goal) => `metric:${goal.name}`);
    this.state.x ??= goals[0];
    this.state.y ??= goals.at(-1);
    this.state.goal ??= view.goals[0].name;
    const missing = [...goals, this.state.x, this.state.y].filter((id) => !(id in view.columns));
    if (missing.length) {
      const more = await get(["studies", this.study, "columns"], { disease: this.state.disease, column: [...new Set(missing)] });
      if (more.version !== view.version) return this.fetchFront();
      view = { ...view, columns: { ...view.columns, ...more.columns } };
    }
    this.view = view;
    return undefined;
  }

  // Columns that a new axis needs, kept for as long as the study has not moved on.
  async fetchColumns() {
    const missing = this.columns().filter((id) => !(id in this.view.columns));
    if (!missing.length) return;
    const more = await get(["studies", this.study, "columns"], { disease: this.state.disease, column: missing });
    if (more.version === this.view.version) Object.assign(this.view.columns, more.columns);
    else await this.fetchFront();
  }

  build() {
    this.places = {
      head: el("div", { class: "head" }), controls: el("form", { class: "card controls", "aria-label": "What the chart shows", onsubmit: (e) => e.preventDefault() }),
      front: el("div", { class: "plot", id: "front", role: "img", "aria-label": "The Pareto front; the table below the chart holds the same points" }),
      caption: el("p", { class: "quiet small" }), table: el("div", { class: "scroll" }),
      detail: el("section", { class: "card section", id: "detail", "aria-label": "The chosen trial" }), compare: el("div"),
      history: el("div", { class: "plot low", id: "history" }), importances: el("div", { class: "plot low", id: "importances" }), parallel: el("div", { class: "plot low", id: "parallel" }),
      goal: el("select", { class: "some", "aria-label": "Importances for", onchange: (e) => { this.state.goal = e.target.value; this.drawSearch(); } }),
    };
    const p = this.places;
    const along = (name) => el("label", {}, el("input", { type: "radio", name: "along", value: name, checked: name === this.state.along, onchange: () => { this.state.along = name; this.drawSearch(); } }), `over ${name}`);
    show(this.main, p.head,
      el("div", { class: "board" }, el("div", { class: "card" }, p.front, p.caption), p.controls, p.detail,
        el("section", { class: "card section" }, el("h2", {}, "The front, as a table"), p.table)),
      el("section", { class: "card section", id: "compare" }, el("h2", {}, "Side by side"), p.compare),
      el("div", { class: "grid2" },
        el("section", { class: "card" }, el("h2", {}, "Hypervolume"), el("div", { class: "choice" }, along("trials"), along("queries")), p.history),
        el("section", { class: "card" }, el("h2", {}, "What matters"), el("p", { class: "quiet small" }, "What sets the best fifth of the trials apart, for"), p.goal, p.importances)),
      el("section", { class: "card section" }, el("h2", {}, "Parameters"), el("p", { class: "quiet small" }, "Each line is a trial; drag along an axis to keep a part of it."), el("div", { class: "wide" }, p.parallel)));
    show(p.goal, this.view.goals.map((goal) => el("option", { value: goal.name, selected: goal.name === this.state.goal }, titleOf(this.view, goal.name))));
    this.tip = el("div", { class: "card tip", hidden: true });
    document.body.append(this.tip);
    this.drawControls();
  }

  drawControls() {
    show(this.places.controls, controls(this.view, this.state, (change) => this.change(change)));
    this.countKept();
  }

  async change({ reset, ...change }) {
    Object.assign(this.state, change);
    try {
      if (change.disease) await this.fetchFront();
      else if (change.x || change.y) await this.fetchColumns();
    } catch (error) {
      say(error.message);
      return;
    }
    this.remember(this.query());
    if (change.disease || reset) this.drawControls();
    await this.drawPoints();
    if (change.disease) this.drawSearch();
    else if (change.limits) this.drawLater();
    if (change.disease) this.drawPanels();
  }

  drawLater() {
    clearTimeout(this.later);
    this.later = setTimeout(() => drawParallel(this.places.parallel, this.view, this.state.kept.kept), 250);
  }

  query() {
    const { disease, x, y, bars, trial, compare } = this.state;
    const query = new URLSearchParams({ disease, x, y, bars });
    if (trial !== null) query.set("trial", trial);
    if (compare.length) query.set("compare", compare.join());
    return query;
  }

  async drawAll() {
    await this.drawPoints();
    this.drawPanels();
    this.drawSearch();
  }

  async drawPoints() {
    this.state.kept = keeps(this.view, this.state.limits);
    this.state.front = frontOf(this.view, this.state.kept);
    this.drawHead();
    this.countKept();
    const first = !this.places.front.classList.contains("js-plotly-plot");
    if (first) {
      sketch(this.places.front, this.view, this.state);
      await painted();
      performance.mark("ude-sketch");
    }
    await drawFront(this.places.front, this.view, this.state);
    if (first) this.listen();
    this.drawTable();
  }

  countKept() {
    const place = document.getElementById("kept");
    if (!place || !this.state.kept) return;
    const kept = this.state.kept.kept.filter(Boolean).length;
    place.textContent = `${kept.toLocaleString("en-GB")} of ${this.view.trials.length.toLocaleString("en-GB")} trials kept, ${this.state.front.filter(Boolean).length} on their front`;
  }

  drawHead() {
    const { view } = this;
    const counts = Object.entries(view.counts).filter(([, count]) => count).map(([name, count]) => `${count.toLocaleString("en-GB")} ${name}`);
    show(this.places.head, el("h1", {}, view.display ?? view.study),
      view.running ? el("span", { class: "chip running" }, "running") : el("span", { class: "chip" }, view.ended >= view.target ? "done" : "waiting"),
      el("p", { class: "quiet", id: "counts" }, `${counts.join(", ") || "no trials yet"} of ${view.target.toLocaleString("en-GB")} · ${view.queries.toLocaleString("en-GB")} queries · hypervolume ${Math.round(view.hypervolume).toLocaleString("en-GB")}`));
    show(this.places.caption, view.trials.length ? "Means over repeated draws of the validation patients, in percentage points. Large points are the front. Click one for its rates and its run; shift-click compares." : "No trial is complete yet; points appear here as they finish.");
  }

  listen() {
    const place = this.places.front;
    place.on("plotly_click", (event) => {
      const i = event.points.find((point) => point.customdata >= 0)?.customdata;
      if (i === undefined) return;
      const trial = this.view.trials[i];
      if (event.event?.shiftKey) this.compare(trial);
      else this.choose(trial);
    });
    place.on("plotly_hover", (event) => this.hover(event));
    place.on("plotly_unhover", () => { this.tip.hidden = true; this.hovered = null; });
  }

  async hover(event) {
    const i = event.points[0].customdata;
    this.hovered = i;
    const { clientX, clientY } = event.event ?? { clientX: 0, clientY: 0 };
    const put = () => {
      const box = this.tip.getBoundingClientRect();
      const left = clientX + 16 + box.width > innerWidth ? clientX - 16 - box.width : clientX + 16;
      this.tip.style.left = `${Math.max(4, left)}px`;
      this.tip.style.top = `${Math.max(4, Math.min(clientY + 12, innerHeight - box.height - 8))}px`;
    };
    if (i < 0) {
      const reference = this.view.references[-1 - i];
      show(this.tip, el("strong", {}, reference.label), this.view.goals.map((goal) => el("p", {}, `${titleOf(this.view, goal.name)}: ${interval(reference.metrics[goal.name])}`)));
    } else {
      const trial = this.view.trials[i];
      const detail = await get(["studies", this.study, "trials", trial], { disease: this.view.disease }).catch(() => null);
      if (this.hovered !== i || !detail) return;
      tip(this.tip, this.view, detail, this.view.goals);
    }
    this.tip.hidden = false;
    put();
  }

  drawTable() {
    const { view, state } = this;
    const rows = view.trials.map((_, i) => i).filter((i) => state.front[i]);
    const at = (goal, i) => view.columns[`metric:${goal.name}`];
    const first = view.goals[0];
    const sign = first.direction === "minimize" ? 1 : -1;
    rows.sort((a, b) => sign * (at(first).mean[a] - at(first).mean[b]));
    const confirmed = new Set(view.confirmed);
    const cell = (goal, i) => { const c = at(goal); return interval(c.mean[i] === null ? null : { mean: c.mean[i], low: c.low[i], high: c.high[i] }); };
    const line = (i) => {
      const trial = view.trials[i];
      return el("tr", { class: trial === state.trial ? "chosen" : null },
        el("td", {}, el("button", { type: "button", "data-trial": String(trial), "aria-label": `Show trial ${trial}`, onclick: () => this.choose(trial) }, String(trial))),
        view.goals.map((goal) => el("td", {}, cell(goal, i))),
        el("td", { class: "words" }, KINDS[kindOf(view, i)].label), el("td", { class: "words" }, confirmed.has(trial) ? "yes" : "–"),
        el("td", {}, el("input", { type: "checkbox", "aria-label": `Compare trial ${trial}`, checked: state.compare.includes(trial), onchange: () => this.compare(trial) })));
    };
    const erm = view.references.map((reference) => el("tr", {}, el("td", {}, reference.label), view.goals.map((goal) => el("td", {}, interval(reference.metrics[goal.name]))), el("td", { class: "words" }, "reference"), el("td", { class: "words" }, "–"), el("td")));
    const focus = document.activeElement?.getAttribute?.("data-trial") ?? null;
    show(this.places.table, el("table", { id: "front-table" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "trial"), view.goals.map((goal) => el("th", { scope: "col" }, `${titleOf(view, goal.name)} ${goal.direction === "minimize" ? "↓" : "↑"}`)),
        el("th", { scope: "col", class: "words" }, "against ERM and noise"), el("th", { scope: "col", class: "words" }, "confirmed"), el("th", { scope: "col" }, "compare"))),
      el("tbody", {}, erm, rows.slice(0, MOST_ROWS).map(line))),
    rows.length > MOST_ROWS ? el("p", { class: "quiet" }, `and ${number(rows.length - MOST_ROWS)} more`) : null);
    if (focus !== null) this.places.table.querySelector(`[data-trial="${focus}"]`)?.focus();
  }

  async choose(trial) {
    this.state.trial = trial;
    this.tip.hidden = true;
    this.remember(this.query());
    this.drawPoints();
    await this.drawDetail();
    document.getElementById("detail-title")?.focus();
  }

  async compare(trial) {
    const chosen = this.state.compare;
    if (chosen.includes(trial)) this.state.compare = chosen.filter((one) => one !== trial);
    else if (chosen.length < MOST_COMPARED) this.state.compare = [...chosen, trial];
    else say(`At most ${MOST_COMPARED} can stand side by side; take one out first.`);
    this.remember(this.query());
    this.drawPoints();
    this.drawPanels();
  }

  async drawDetail() {
    const actions = { compare: (trial) => this.compare(trial), choose: (trial) => this.choose(trial) };
    await detailPanel(this.places.detail, this.view, this.state, actions).catch((error) => show(this.places.detail, el("p", { class: "problem" }, error.message)));
  }

  drawPanels() {
    const actions = { compare: (trial) => this.compare(trial) };
    this.drawDetail();
    comparePanel(this.places.compare, this.view, this.state, actions).catch((error) => show(this.places.compare, el("p", { class: "problem" }, error.message)));
  }

  // Below the fold: drawn when the browser has nothing better to do.
  drawSearch() {
    const draw = async () => {
      if (this.stopped) return;
      const { view, places, state } = this;
      await drawHistory(places.history, view, state.along);
      await drawImportances(places.importances, view, state.goal);
      await drawParallel(places.parallel, view, state.kept.kept);
    };
    const soon = window.requestIdleCallback ?? ((call) => setTimeout(call, 50));
    soon(() => draw().catch((error) => say(error.message)), { timeout: 1500 });
  }

  poll() {
    clearTimeout(this.timer);
    if (this.stopped) return;
    const pause = this.view.running || this.view.ended < this.view.target ? SOON : LATER;
    this.timer = setTimeout(async () => {
      try {
        if (!document.hidden) await this.refresh();
      } catch (error) {
        say(`No news of the study: ${error.message}. Trying again.`);
      }
      this.poll();
    }, pause);
  }

  async refresh() {
    const before = this.view;
    await this.fetchFront();
    if (this.stopped || this.view.version === before.version) return;
    const came = this.view.trials.length - before.trials.length;
    const sameAxes = before.axes.length === this.view.axes.length && before.trials.length > 0;
    if (!sameAxes) this.drawControls();
    await this.drawPoints();
    this.drawSearch();
    if (this.view.confirmed.length !== before.confirmed.length) this.drawPanels();
    if (came > 0) say(`${came} more trial${came === 1 ? "" : "s"}.`);
  }
}

