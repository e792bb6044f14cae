// Where the reader is: the list of studies, or one of them. The address after # says which.
import { get } from "./api.js";
import { el, number, show, words } from "./dom.js";
import { StudyPage } from "./study.js";

const main = document.getElementById("main");
const trail = document.getElementById("trail");
let open = null;
let written = null;

function place() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [kind, name] = path.split("/");
  return { study: kind === "study" && name ? decodeURIComponent(name) : null, query: new URLSearchParams(query ?? "") };
}

function card(row) {
  if (row.state === "unreadable") {
    return el("li", { class: "card" }, el("h2", {}, row.study), el("p", { class: "problem" }, row.problem));
  }
  return el("li", {}, el("a", { class: "card", href: `#/study/${encodeURIComponent(row.study)}` },
    el("h2", {}, row.display ?? row.study),
    el("p", {}, el("span", { class: row.state === "running" ? "chip running" : "chip" }, row.state),
      row.confirmed ? [" ", el("span", { class: "chip" }, `${row.confirmed} confirmed`)] : null),
    row.description ? el("p", { class: "quiet small" }, row.description) : null,
    el("progress", { max: row.target || 1, value: Math.min(row.ended, row.target), "aria-label": `${row.ended} of ${row.target} trials` }),
    el("p", { class: "quiet small" }, `${number(row.ended)} of ${number(row.target)} trials · ${number(row.queries)} queries`),
    el("p", { class: "small" }, row.diseases.map(words).join(", "))));
}

async function list() {
  trail.textContent = "";
  document.title = "UDE Study";
  const { studies } = await get(["studies"]);
  show(main, el("h1", {}, "Studies"),
    studies.length ? el("ul", { class: "studies" }, studies.map(card))
      : el("p", { class: "quiet" }, "There is no study here that you may see. ", el("code", {}, "ude-study launch demo"), " makes one."));
}

async function go() {
  if (location.hash === written) return;
  written = null;
  const { study, query } = place();
  open?.close();
  open = null;
  try {
    if (!study) {
      await list();
      open = listing();
      return;
    }
    trail.textContent = study;
    document.title = `${study} · UDE Study`;
    show(main, el("p", { class: "quiet" }, "Loading…"));
    const page = new StudyPage(main, study, query, (chosen) => {
      written = `#/study/${encodeURIComponent(study)}?${chosen}`;
      history.replaceState(null, "", written);
    });
    open = page;
    await page.open();
    links(study);
  } catch (error) {
    show(main, el("h1", {}, "That did not work"), el("p", { class: "problem" }, error.message), el("p", {}, el("a", { href: "#/" }, "All studies")));
  }
}

function listing() {
  const timer = setInterval(() => { if (!document.hidden) list().catch(() => undefined); }, 5000);
  return { close: () => clearInterval(timer) };
}

async function links(study) {
  const found = await get(["studies", study, "links"]).catch(() => ({}));
  const link = document.getElementById("mlflow");
  link.href = found.runs ? `../#${found.runs}` : "../";
  link.textContent = found.runs ? "MLflow runs" : "MLflow";
}

addEventListener("hashchange", go);
go();
