// Which view is shown, and the one stream that keeps it live.

import { Stream } from "./api.js";
import { compareView } from "./compare.js";
import { h, put } from "./dom.js";
import { predictView } from "./predict.js";
import { runView } from "./run.js";
import { runsView } from "./runs.js";
import { startView } from "./start.js";

const REFRESH = 15000; // for what no event reports, such as a run that was queued or deleted
const main = document.getElementById("main");
const live = document.getElementById("live");
let view = null;
let stream = null;
let turn = 0;

const ROUTES = [
  [/^#\/runs\/(\d+)$/, (match, at) => runView(at, Number(match[1]))],
  [/^#\/runs\/(\d+)\/predict$/, (match, at) => predictView(at, Number(match[1]))],
  [/^#\/compare\/([\d,]+)$/, (match, at) => compareView(at, match[1].split(",").filter(Boolean).map(Number))],
  [/^#\/new$/, (_, at) => startView(at)],
  [/^/, (_, at) => runsView(at)],
];

async function show() {
  const mine = ++turn;
  const hash = location.hash || "#/";
  const [pattern, open] = ROUTES.find(([pattern]) => pattern.test(hash));
  for (const link of document.querySelectorAll("nav a"))
    link.getAttribute("href") === hash ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
  const place = h("div");
  const missed = []; // events that come while the view loads; a view takes each as often as it likes
  const early = { onEvent: (event) => missed.push(event), refresh() {} };
  view = early;
  try {
    const opened = await open(hash.match(pattern), place);
    if (mine !== turn) return;
    view = opened;
    stream ??= new Stream(opened.since, (event) => view.onEvent(event), state);
    missed.filter((event) => event.event_id > opened.since).forEach((event) => opened.onEvent(event));
  } catch (error) {
    if (mine !== turn) return;
    put(place, h("h1", {}, "This cannot be shown"), h("p", {}, error.message), h("a", { href: "#/" }, "All runs"));
  }
  put(main, place);
  document.title = `${place.querySelector("h1")?.textContent ?? ""} – Pneumoscope`;
}

function state(name) {
  live.dataset.state = name;
  live.textContent = { live: "live", connecting: "not live, reconnecting", offline: "offline" }[name];
}

addEventListener("hashchange", () => { show().then(() => main.focus()); scrollTo(0, 0); });
setInterval(() => { if (!document.hidden) Promise.resolve(view?.refresh()).catch(() => {}); }, REFRESH);
show();
