// The list of runs: sorted and filtered by the server; only the rows on the screen are in the page.

import { get, mayChange } from "./api.js";
import { actionBar, deleteRuns, tagRuns } from "./actions.js";
import { column, columnMenu, isSetting, settingKeys, USUAL } from "./columns.js";
import { h, later, plain, put, say, status } from "./dom.js";
import { long, short } from "./glossary.js";

const STATUSES = ["queued", "preparing", "in_progress", "completed", "stopped", "failed", "interrupted"];
const PAGE = 100;
const BEYOND = 8; // rows above and below what is seen
const FILTERS = ["status", "name", "tag", "dataset", "where"];
const GROUPED = ["val_recall", "val_specificity", "val_f1", "val_auroc", "val_loss"];

export async function runsView(main, query) {
  const full = await mayChange;
  const state = { sort: query.get("sort") ?? "run_id", order: query.get("order") ?? "desc", group: query.get("group") === "seeds",
    columns: query.get("columns")?.split(",").filter(column) ?? [...USUAL], ...Object.fromEntries(FILTERS.map((name) => [name, query.get(name) ?? ""])) };
  const chosen = new Set();
  const pages = new Map(); // number -> its runs, or the promise of them
  const rows = new Map(); // run_id -> its row in the page
  let total = 0;
  let turn = 0;

  const [body, head, above, below] = [h("tbody"), h("thead"), h("tr", { class: "spacer", "aria-hidden": "true" }, h("td")), h("tr", { class: "spacer", "aria-hidden": "true" }, h("td"))];
  const table = h("table", { class: "runs" }, head, body);
  const scroller = h("div", { class: "card list", tabindex: -1 }, table);
  const groups = h("div");
  const counts = h("span", { class: "soft small", role: "status" });
  const picked = h("span");
  const compare = h("a", { class: "button", "aria-disabled": "true" }, "Compare");
  const bulk = h("span", { class: "bulk", hidden: true }, picked, full ? [h("button", { type: "button", onclick: async () => { if (await tagRuns([...chosen])) reload(); } }, "Tag"),
    h("button", { type: "button", class: "danger", onclick: async () => { if (await deleteRuns([...chosen])) { chosen.clear(); reload(); } } }, "Delete")] : null,
  h("button", { type: "button", class: "plain", onclick: () => { chosen.clear(); draw(true); } }, "Clear"));
  const more = h("details", { class: "menu" }, h("summary", { class: "button" }, "Filters"), h("div", {}, filter("tag", "Tag"), filter("dataset", "Data set"),
    filter("where", "Settings", { placeholder: "model.backbone=resnet50", list: "where-keys", title: "KEY=VALUE, KEY>=NUMBER or KEY<=NUMBER; several with spaces" })), h("datalist", { id: "where-keys" }));
  more.addEventListener("toggle", async () => put(more.lastChild, (await settingKeys()).map((key) => h("option", { value: `${key}=` }))));
  const grouping = h("input", { type: "checkbox", onchange: () => { state.group = grouping.checked; changed(); } });
  grouping.checked = state.group;
  put(main, h("h1", {}, "Runs"), h("form", { class: "bar", role: "search", onsubmit: (event) => event.preventDefault() },
    h("label", { class: "inline" }, "State ", h("select", { name: "status", onchange: (event) => { state.status = event.target.value; changed(); } },
      h("option", { value: "" }, "all"), STATUSES.map((name) => h("option", { value: name, selected: state.status === name }, name.replace("_", " "))))),
    filter("name", "Name", { type: "search" }), more, columnMenu(state.columns, (keys) => { state.columns = keys; drawHead(); changed(); }),
    h("label", { class: "inline", title: "runs that differ in their seeds alone: mean and spread" }, grouping, " Group seeds"), compare,
    full ? h("a", { class: "button primary", href: "#/new" }, "New run") : null),
  h("div", { class: "bar under" }, counts, bulk), groups, scroller);

  function filter(name, text, attributes = {}) {
    const changeSoon = later(250, changed);
    const input = h("input", { name, ...attributes, oninput: () => { state[name] = input.value.trim(); changeSoon(); } });
    input.value = state[name];
    return h("label", { class: "inline" }, `${text} `, input);
  }

  function search(all) {
    const found = new URLSearchParams();
    for (const name of FILTERS) if (state[name] && name !== "where") found.set(name, state[name]);
    for (const one of all ? [state.where] : state.where.split(/\s+/)) if (one) found.append("where", one);
    if (state.sort !== "run_id" || state.order !== "desc") { found.set("sort", state.sort); found.set("order", state.order); }
    if (all && state.columns.join() !== USUAL.join()) found.set("columns", state.columns.join());
    if (all && state.group) found.set("group", "seeds");
    return found;
  }

  // The state is in the address: it can be shared, and the browser's way back leads to it.
  function changed() {
    const text = search(true).toString();
    history.replaceState(null, "", text ? `#/?${text}` : "#/");
    scroller.scrollTop = 0;
    reload();
  }

  function fetchPage(number) {
    const asked = search(false);
    for (const [name, value] of [["limit", PAGE], ["offset", number * PAGE], ["settings", state.columns.filter(isSetting).join()]]) asked.set(name, value);
    const mine = turn;
    const answer = get(`/runs?${asked}`).then((page) => {
      if (mine !== turn) return page;
      pages.set(number, page.runs);
      total = page.total;
      say(counts, `${total} ${total === 1 ? "run" : "runs"}: ${Object.entries(page.counts).map(([name, n]) => `${n} ${name.replace("_", " ")}`).join(", ")}${state.name || state.status || state.tag || state.dataset || state.where ? " in all" : ""}`);
      draw();
      return page;
    });
    pages.set(number, answer);
    return answer;
  }

  async function reload() {
    turn += 1;
    const old = new Map(pages);
    const [first, last] = seen();
    const wanted = new Set([Math.floor(first / PAGE), Math.floor(Math.max(first, last - 1) / PAGE)]);
    pages.clear();
    for (const [number, runs] of old) if (Array.isArray(runs) && wanted.has(number)) pages.set(number, runs); // shown until the new ones come
    scroller.hidden = state.group;
    try {
      if (state.group) { await drawGroups(); return (await get("/runs?limit=1")).last_event_id; }
      put(groups);
      const answers = await Promise.all([...wanted].map(fetchPage));
      return answers[0].last_event_id;
    } catch (error) {
      if (error instanceof TypeError || !pages.size) throw error;
      say(counts, error.message); // a filter that the server does not understand
      return 0;
    }
  }

  const reloadSoon = later(200, () => reload().catch(() => {}));

  // First and last row on the screen, from where the table is.
  function seen() {
    const height = parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--row"));
    const [outer, inner] = [scroller.getBoundingClientRect(), body.getBoundingClientRect()];
    const [top, bottom] = [Math.max(outer.top, 0), Math.min(outer.bottom || innerHeight, innerHeight)];
    const first = Math.max(0, Math.floor((top - inner.top) / height) - BEYOND);
    return [Math.min(first, Math.max(0, total - 1)), Math.min(total || PAGE, first + Math.ceil(Math.max(bottom - top, height) / height) + 2 * BEYOND), height];
  }

  function draw(all = false) {
    const [first, last, height] = seen();
    const wanted = [];
    for (let i = first; i < last; i += 1) {
      const page = pages.get(Math.floor(i / PAGE));
      if (!page) fetchPage(Math.floor(i / PAGE)).catch(() => {});
      if (Array.isArray(page) && page[i % PAGE]) wanted.push(page[i % PAGE]);
    }
    const keep = document.activeElement?.closest?.("tr")?.dataset.run;
    const ids = new Set(wanted.map((run) => String(run.run_id)));
    for (const [id, row] of rows) if (!ids.has(id) && id !== keep) { row.element.remove(); rows.delete(id); }
    above.firstChild.style.height = `${first * height}px`;
    below.firstChild.style.height = `${Math.max(0, total - first - wanted.length) * height}px`; // the whole keeps its height while a page loads
    if (above.parentNode !== body || !body.contains(below)) put(body, above, below);
    let after = above;
    for (const run of wanted) {
      const row = rows.get(String(run.run_id)) ?? newRow(run);
      rows.set(String(run.run_id), row);
      row.update(run, all);
      if (after.nextSibling !== row.element) after.after(row.element);
      after = row.element;
    }
    if (!total && !wanted.length) {
      const asked = FILTERS.some((name) => state[name]);
      put(body, h("tr", {}, h("td", { colspan: state.columns.length + 4, class: "empty" }, asked ? "No run is like that."
        : ["No run yet. ", h("a", { href: "#/new" }, "Upload a data set and start one"), ", or start one with python -m engine.train."])));
    }
    bulk.hidden = !chosen.size;
    say(picked, `${chosen.size} chosen`);
    compare.setAttribute("aria-disabled", String(chosen.size < 2));
    if (chosen.size >= 2) compare.href = `#/compare/${[...chosen].sort((a, b) => a - b).join(",")}`;
    else compare.removeAttribute("href");
    say(compare, chosen.size >= 2 ? `Compare ${chosen.size}` : "Compare (choose two)");
  }

  function newRow(run) {
    const id = run.run_id;
    const box = h("input", { type: "checkbox", "aria-label": `choose run ${id} to compare`, onchange: () => { box.checked ? chosen.add(id) : chosen.delete(id); draw(); } });
    const link = h("a", { href: `#/runs/${id}` });
    const bar = h("progress", { max: 1, value: 0, hidden: true });
    const of = h("span");
    const buttons = actionBar(reload);
    let keys = null;
    let cells = [];
    const element = h("tr", { "data-run": id });
    return {
      element,
      update(run) {
        box.checked = chosen.has(id);
        if (keys !== state.columns.join()) {
          keys = state.columns.join();
          cells = state.columns.map((key) => [column(key), h("td", { class: `c-${key.replace(".", "-")}${column(key).number ? " number" : ""}`, "data-label": column(key).name })]);
          put(element, h("td", { class: "c-choose" }, box), h("td", { class: "c-run" }, link, h("span", { class: "soft small" }, ` ${id}`)), h("td", { class: "c-state" }, of, bar), cells.map(([, cell]) => cell), h("td", { class: "c-actions" }, buttons.element));
        }
        say(link, run.run_name);
        link.title = run.run_name;
        if (of.dataset.status !== run.status) put(of, status(run.status));
        of.dataset.status = run.status;
        bar.hidden = run.status !== "in_progress";
        if (!bar.hidden) { bar.value = doneOf(run); bar.setAttribute("aria-label", `run ${id}: ${Math.round(100 * bar.value)} %`); }
        for (const [one, cell] of cells) {
          const node = one.node?.(run);
          const text = node ? node.textContent : one.text(run);
          if (cell.textContent !== text) node ? put(cell, node) : say(cell, text);
          if (!node) cell.title = text;
        }
        buttons.update(run, full);
      },
    };
  }

  function drawHead() {
    const heading = (text, sort, look, title) => h("th", { scope: "col", class: look, title, "aria-sort": sort && state.sort === sort ? (state.order === "desc" ? "descending" : "ascending") : null },
      sort ? h("button", { type: "button", class: "plain sort", "data-sort": sort, onclick: () => {
        state.order = state.sort === sort && state.order === "desc" ? "asc" : "desc";
        state.sort = sort;
        drawHead();
        head.querySelector(`[data-sort="${sort}"]`)?.focus();
        changed();
      } }, text, h("span", { "aria-hidden": "true" }, state.sort === sort ? (state.order === "desc" ? " ↓" : " ↑") : "")) : text);
    put(head, h("tr", {}, h("th", { class: "c-choose" }, h("span", { class: "unseen" }, "choose")), heading("Run", "run_name", "c-run"), heading("State", "status", "c-state"),
      state.columns.map((key) => heading(column(key).name, column(key).sort, `c-${key.replace(".", "-")}${column(key).number ? " number" : ""}`, column(key).title)), h("th", { class: "c-actions" }, h("span", { class: "unseen" }, "actions"))));
  }

  async function drawGroups() {
    const { groups: found } = await get(`/groups?${search(false)}`);
    const spread = (row, key) => (row[key] == null ? "–" : key === "val_loss" ? `${plain(row[key])} ± ${plain(row[`${key}_sd`])}` : `${(100 * row[key]).toFixed(1)} ± ${row[`${key}_sd`] == null ? "–" : (100 * row[`${key}_sd`]).toFixed(1)} %`);
    put(groups, h("div", { class: "card table" }, found.length ? h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Runs that differ in their seeds alone"), h("th", { scope: "col", class: "number" }, "Runs"), GROUPED.map((key) => h("th", { scope: "col", class: "number", title: long(key) }, short(key))))),
      h("tbody", {}, found.map((row) => h("tr", {}, h("td", {}, row.run_ids.length < 41 ? h("a", { href: `#/compare/${row.run_ids.join(",")}` }, row.run_name) : row.run_name), h("td", { class: "number" }, String(row.runs)),
        GROUPED.map((key) => h("td", { class: "number" }, spread(row, key))))))) : h("p", { class: "soft" }, "No two completed runs differ in their seeds alone.")));
  }

  const onScroll = () => { if (!onScroll.waiting) { onScroll.waiting = true; requestAnimationFrame(() => { onScroll.waiting = false; if (!state.group) draw(); }); } };
  addEventListener("scroll", onScroll, { capture: true, passive: true });
  addEventListener("resize", onScroll);
  drawHead();
  const since = await reload();
  return {
    since,
    attached: () => draw(),
    close() { removeEventListener("scroll", onScroll, { capture: true }); removeEventListener("resize", onScroll); },
    onEvent(event) {
      if (event.event === "training_progress") {
        for (const runs of pages.values()) {
          const run = Array.isArray(runs) && runs.find((one) => one.run_id === event.run_id);
          if (run) { run.progress = event; rows.get(String(run.run_id))?.update(run); }
        }
      } else if (event.event !== "system_metrics") reloadSoon();
    },
    refresh: reload,
  };
}

function doneOf(run) {
  const { epoch = 1, step = 0, steps = 1, phase } = run.progress ?? {};
  const inEpoch = phase === "train" ? (0.9 * step) / steps : 0.9 + (0.1 * step) / steps;
  return run.progress ? Math.min(1, (epoch - 1 + inEpoch) / run.epochs) : 0;
}
