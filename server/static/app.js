// Which view is shown, and the one stream that keeps it live. The address is #/PLACE?STATE: what a
// view shows (filters, order, columns) can be shared as a link.

import { request, session, Stream, toLogin } from "./api.js";
import { compareView } from "./compare.js";
import { h, put } from "./dom.js";
import { predictView } from "./predict.js";
import { runView } from "./run.js";
import { runsView } from "./runs.js";
import { startView } from "./start.js";

const REFRESH = 15000; // for what no event reports, such as a run that was queued or deleted
const RETRY = 2000; // for a view that could not be loaded because the server did not answer
const main = document.getElementById("main");
const live = document.getElementById("live");
let view = null;
let stream = null;
let turn = 0;

const ROUTES = [
  [/^#\/runs\/(\d+)$/, (match, at) => runView(at, Number(match[1]))],
  [/^#\/runs\/(\d+)\/predict$/, (match, at) => predictView(at, Number(match[1]))],
  [/^#\/compare\/([\d,]+)$/, (match, at, query) => compareView(at, match[1].split(",").filter(Boolean).map(Number), query)],
  [/^#\/new$/, (_, at, query) => startView(at, query)],
  [/^/, (_, at, query) => runsView(at, query)],
];

async function show() {
  const mine = ++turn;
  clearTimeout(show.retry);
  const [hash, query = ""] = (location.hash || "#/").split("?");
  const [pattern, open] = ROUTES.find(([pattern]) => pattern.test(hash));
  for (const link of document.querySelectorAll("nav a"))
    link.getAttribute("href") === hash ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
  const place = h("div");
  const missed = []; // events that come while the view loads; a view takes each as often as it likes
  view?.close?.();
  view = { onEvent: (event) => missed.push(event), refresh() {} };
  try {
    const opened = await open(hash.match(pattern), place, new URLSearchParams(query));
    if (mine !== turn) { opened.close?.(); return; }
    view = opened;
    put(main, place);
    opened.attached?.();
    stream ??= new Stream(opened.since, (event) => view.onEvent(event), state);
    missed.filter((event) => event.event_id > opened.since).forEach((event) => opened.onEvent(event));
  } catch (error) {
    if (mine !== turn) return;
    const away = error instanceof TypeError; // as fetch reports it
    put(place, h("h1", {}, "This cannot be shown"),
      h("p", {}, away ? "The server does not answer; this page tries again by itself." : error.message),
      h("p", {}, h("button", { type: "button", onclick: show }, "Try again"), " ", h("a", { href: "#/" }, "All runs")));
    put(main, place);
    if (away) show.retry = setTimeout(show, RETRY);
  }
  document.title = `${place.querySelector("h1")?.textContent ?? ""} – Pneumoscope`;
}

function state(name) {
  live.dataset.state = name;
  live.textContent = { live: "live", connecting: "not live, reconnecting", offline: "offline" }[name];
}

session.then((one) => {
  if (!one.logged_in) return;
  live.after(h("button", { type: "button", class: "plain", onclick: async () => {
    await request("POST", "/logout").catch(() => {});
    toLogin();
  } }, "Log out"));
  if (one.access === "read") {
    document.body.dataset.access = "read";
    live.before(h("span", { class: "soft small" }, "reading only"));
  }
});

// A menu closes by a press elsewhere, and by Escape, which leads back to its button.
const openMenus = () => [...document.querySelectorAll("details.menu[open]")];
addEventListener("pointerdown", (event) => openMenus().forEach((menu) => { if (!menu.contains(event.target)) menu.open = false; }));
addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  openMenus().forEach((menu) => { menu.open = false; menu.querySelector("summary").focus(); });
});

addEventListener("hashchange", () => { show().then(() => main.focus()); scrollTo(0, 0); });
setInterval(() => { if (!document.hidden) Promise.resolve(view?.refresh()).catch(() => {}); }, REFRESH);
show();
