// The front at once, on a canvas: Plotly takes a second to start, and the figures are there long before.
import { colors } from "./dom.js";
import { KINDS, kindOf, valuesOf } from "./front.js";

const SIDE = { left: 56, right: 12, top: 8, bottom: 84 };
const TICKS = 6;

function scale(values, from, to) {
  const known = values.filter((value) => typeof value === "number");
  if (!known.length) return null;
  let [low, high] = [Math.min(...known), Math.max(...known)];
  const room = (high - low || 1) * 0.06;
  low -= room;
  high += room;
  const at = (value) => from + ((value - low) / (high - low)) * (to - from);
  const size = 10 ** Math.floor(Math.log10((high - low) / TICKS));
  const step = [1, 2, 5, 10].map((k) => k * size).find((s) => (high - low) / s <= TICKS);
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high; tick += step) ticks.push(Number(tick.toPrecision(6)));
  return { at, ticks };
}

// Draw into `place`, which Plotly takes over; nothing where an axis is not of numbers.
export function sketch(place, view, state) {
  const { clientWidth: width, clientHeight: height } = place;
  const [xs, ys] = [view.columns[state.x], view.columns[state.y]].map(valuesOf);
  const x = scale(xs, SIDE.left, width - SIDE.right);
  const y = scale(ys, height - SIDE.bottom, SIDE.top);
  if (!x || !y || !width) return;
  const canvas = document.createElement("canvas");
  const dots = window.devicePixelRatio || 1;
  [canvas.width, canvas.height] = [width * dots, height * dots];
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(dots, dots);
  const shade = colors();
  pen.font = "13px system-ui, sans-serif";
  pen.strokeStyle = shade.grid;
  pen.fillStyle = shade.ink;
  pen.textAlign = "center";
  for (const tick of x.ticks) {
    pen.strokeRect(x.at(tick), SIDE.top, 0, height - SIDE.bottom - SIDE.top);
    pen.fillText(String(tick), x.at(tick), height - SIDE.bottom + 18);
  }
  pen.textAlign = "right";
  for (const tick of y.ticks) {
    pen.strokeRect(SIDE.left, y.at(tick), width - SIDE.right - SIDE.left, 0);
    pen.fillText(String(tick), SIDE.left - 8, y.at(tick) + 4);
  }
  for (const front of [false, true]) {
    pen.globalAlpha = front ? 1 : 0.45;
    const half = front ? 5 : 2.5;
    view.trials.forEach((_, i) => {
      if (Boolean(state.front[i]) !== front || typeof xs[i] !== "number" || typeof ys[i] !== "number") return;
      pen.fillStyle = shade[KINDS[kindOf(view, i)].color];
      pen.fillRect(x.at(xs[i]) - half, y.at(ys[i]) - half, 2 * half, 2 * half);
    });
  }
  place.replaceChildren(canvas);
}
