// The choices beside the chart. Each change calls `changed` with what changed.
import { el, number, words } from "./dom.js";

function pick(id, label, groups, value, changed) {
  const options = groups.filter(([, entries]) => entries.length).map(([name, entries]) => {
    const made = entries.map(([key, text]) => el("option", { value: key, selected: key === value }, text));
    return name ? el("optgroup", { label: name }, made) : made;
  });
  return el("div", {},
    el("label", { class: "over", for: id }, label),
    el("select", { id, onchange: (event) => changed(event.target.value) }, options));
}

function axisGroups(view) {
  const goals = new Set(view.goals.map((goal) => `metric:${goal.name}`));
  const of = (test) => view.axes.filter(test).map((axis) => [axis.id, axis.title]);
  return [
    ["Objectives", of((axis) => goals.has(axis.id))],
    ["Costs", of((axis) => axis.kind === "count")],
    ["Parameters", of((axis) => axis.kind === "parameter")],
    ["Other metrics", of((axis) => axis.kind === "metric" && !goals.has(axis.id))],
  ];
}

function range(values) {
  const known = values.filter((value) => value !== null);
  return known.length ? [Math.min(...known), Math.max(...known)] : null;
}

// One end of the slider asks nothing; `off` says which.
function slider(id, label, bounds, off, unit, value, changed) {
  const [low, high] = bounds;
  const text = (at) => (at === null ? "any" : `${off === "high" ? "≤" : "≥"} ${number(at)} ${unit}`);
  const resting = off === "high" ? high : low;
  const output = el("output", { for: id }, text(value));
  const input = el("input", {
    id, type: "range", min: String(low), max: String(high), step: String(Math.max((high - low) / 100, 0.01)),
    "aria-valuetext": text(value),
    oninput: (event) => {
      const at = Number(event.target.value);
      const chosen = Math.abs(at - resting) < 1e-9 ? null : at;
      output.textContent = text(chosen);
      event.target.setAttribute("aria-valuetext", text(chosen));
      changed(chosen);
    },
  });
  input.value = String(value ?? resting);
  return el("div", { class: "slide" }, el("label", { for: id }, label), output, input);
}

export function bounds(view) {
  const mean = (name) => view.columns[`metric:${name}`]?.mean ?? [];
  const erm = view.references[0]?.metrics.accuracy?.mean;
  const accuracy = range(mean("accuracy"));
  const gap = range(mean("eo_gap"));
  const psnr = range(mean("psnr_db"));
  return {
    drop: erm === undefined || !accuracy ? null : [0, Math.max(1, Math.ceil(erm - accuracy[0]))],
    gap: gap && [Math.floor(gap[0]), Math.ceil(gap[1])],
    psnr: psnr && [Math.floor(psnr[0]), Math.ceil(psnr[1])],
  };
}

export function controls(view, state, changed) {
  const axes = axisGroups(view);
  const limit = (key) => (value) => changed({ limits: { ...state.limits, [key]: value } });
  const ranges = bounds(view);
  const sliders = [
    ranges.drop && slider("drop", "Accuracy drop against ERM", ranges.drop, "high", "pp", state.limits.drop, limit("drop")),
    ranges.gap && slider("gap", "Equal-opportunity gap", ranges.gap, "high", "pp", state.limits.gap, limit("gap")),
    ranges.psnr && slider("psnr", "Fidelity (PSNR)", ranges.psnr, "low", "dB", state.limits.psnr, limit("psnr")),
  ];
  const doubt = [["bars", "bars"], ["ellipses", "ellipses"], ["none", "none"]];
  return [
    pick("disease", "Disease", [["", view.diseases.map((name) => [name, name === "mean" ? "mean of all" : name === "worst" ? "worst of all" : words(name)])]], view.disease, (disease) => changed({ disease })),
    pick("x", "Across", axes, state.x, (x) => changed({ x })),
    pick("y", "Up", axes, state.y, (y) => changed({ y })),
    el("fieldset", {}, el("legend", {}, "95 % intervals of the front"),
      el("div", { class: "choice" }, doubt.map(([key, text]) => el("label", {},
        el("input", { type: "radio", name: "bars", value: key, checked: state.bars === key, onchange: () => changed({ bars: key }) }), text)))),
    el("fieldset", {}, el("legend", {}, "Keep only"), sliders),
    el("button", { type: "button", onclick: () => changed({ limits: { drop: null, gap: null, psnr: null }, reset: true }) }, "Clear the constraints"),
    el("p", { id: "kept", class: "quiet small", "aria-live": "polite" }),
  ];
}
