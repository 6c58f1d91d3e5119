// The list of runs.

import { get } from "./api.js";
import { duration, h, percent, put, status, when } from "./dom.js";
import { actions } from "./actions.js";

const STATUSES = ["queued", "preparing", "in_progress", "completed", "stopped", "failed", "interrupted"];
const PAGE = 50;

export async function runsView(main) {
  const filter = { status: "", name: "" };
  const chosen = new Set();
  let rows = [];
  let next = null;
  const body = h("tbody");
  const more = h("button", { hidden: true, onclick: () => load(next) }, "Older runs");
  const compare = h("a", { class: "button", "aria-disabled": "true" }, "Compare");
  const counts = h("span", { class: "soft small" });
  put(main,
    h("h1", {}, "Runs"),
    h("form", { class: "bar", role: "search", onsubmit: (event) => event.preventDefault() },
      h("label", {}, "State ", h("select", { name: "status", onchange: (e) => { filter.status = e.target.value; load(); } },
        h("option", { value: "" }, "all"), STATUSES.map((name) => h("option", { value: name }, name.replace("_", " "))))),
      h("label", {}, "Name ", h("input", { type: "search", name: "name", oninput: (e) => {
        filter.name = e.target.value;
        clearTimeout(load.timer);
        load.timer = setTimeout(load, 250);
      } })),
      compare, h("a", { class: "button primary", href: "#/new" }, "New run"), counts),
    h("div", { class: "card table" }, h("table", { class: "stack" },
      h("thead", {}, h("tr", {}, ["", "Run", "State", "Epoch", "Recall", "Specificity", "AUROC", "Created", "Time", ""]
        .map((name, i) => h("th", { scope: "col", class: i > 2 && i < 7 ? "number" : "" }, name)))),
      body)),
    more);

  async function load(before) {
    const wanted = typeof before === "number" ? before : null;
    const query = new URLSearchParams({ limit: PAGE, ...(filter.status && { status: filter.status }),
      ...(filter.name && { name: filter.name }), ...(wanted && { before: wanted }) });
    const page = await get(`/runs?${query}`);
    rows = wanted ? [...rows, ...page.runs] : page.runs;
    next = page.next_before;
    more.hidden = next === null;
    counts.textContent = Object.entries(page.counts).map(([name, n]) => `${n} ${name.replace("_", " ")}`).join(", ");
    draw();
    return page.last_event_id;
  }

  function draw() {
    const focused = document.activeElement?.closest?.("tr")?.dataset.run;
    if (!rows.length) {
      put(body, h("tr", {}, h("td", { colspan: 10 }, filter.name || filter.status
        ? "No run is like that."
        : ["No run yet. ", h("a", { href: "#/new" }, "Upload a data set and start one"), ", or start one with python -m engine.train."])));
    } else if (!focused || !body.querySelector(`tr[data-run="${focused}"] :focus`)) {
      put(body, ...rows.map(row));
    } else { // the keyboard's place is kept: the other rows are drawn anew
      for (const run of rows) {
        const old = body.querySelector(`tr[data-run="${run.run_id}"]`);
        if (String(run.run_id) !== focused) old ? old.replaceWith(row(run)) : body.prepend(row(run));
      }
    }
    compare.setAttribute("aria-disabled", String(chosen.size < 2));
    if (chosen.size >= 2) compare.href = `#/compare/${[...chosen].sort((a, b) => a - b).join(",")}`;
    else compare.removeAttribute("href");
    compare.textContent = chosen.size >= 2 ? `Compare ${chosen.size}` : "Compare (choose two)";
  }

  function row(run) {
    const cell = (label, content, look) => h("td", { "data-label": label, class: look ?? "" }, content);
    const box = h("input", { type: "checkbox", "aria-label": `choose run ${run.run_id} to compare`, onchange: (event) => {
      event.target.checked ? chosen.add(run.run_id) : chosen.delete(run.run_id);
      draw();
    } });
    box.checked = chosen.has(run.run_id);
    return h("tr", { "data-run": run.run_id },
      cell("choose", box),
      cell("run", [h("a", { href: `#/runs/${run.run_id}` }, run.run_name), h("span", { class: "soft small" }, ` ${run.run_id}`)]),
      cell("state", [status(run.status), run.status === "in_progress" ? bar(run) : null]),
      cell("epoch", run.status === "in_progress" ? `${run.progress?.epoch ?? run.epoch ?? "–"} of ${run.epochs}` : run.best_epoch ? `${run.best_epoch} (best)` : `${run.epoch ?? "–"}`, "number"),
      cell("recall", percent(run.val_recall), "number"),
      cell("specificity", percent(run.val_specificity), "number"),
      cell("AUROC", run.val_auroc == null ? "–" : run.val_auroc.toFixed(3), "number"),
      cell("created", when(run.created_at), "nowrap"),
      cell("time", duration(run.training_time), "nowrap"),
      cell("", actions(run, load)));
  }

  const since = await load();
  return {
    since,
    onEvent(event) {
      const run = rows.find((one) => one.run_id === event.run_id);
      if (run && event.event === "training_progress") {
        run.progress = event;
        draw();
      } else if (event.event !== "system_metrics") {
        clearTimeout(load.soon);
        load.soon = setTimeout(load, 150);
      }
    },
    refresh: load,
  };
}

function bar(run) {
  const { epoch = 1, step = 0, steps = 1, phase } = run.progress ?? {};
  const inEpoch = phase === "train" ? (0.9 * step) / steps : 0.9 + (0.1 * step) / steps;
  const done = run.progress ? (epoch - 1 + inEpoch) / run.epochs : 0;
  return h("progress", { max: 1, value: done, "aria-label": `run ${run.run_id}: ${Math.round(100 * done)} %` });
}
