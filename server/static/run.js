// One run: what it came to, charts as they grow, the threshold, settings, log, files. What is live
// is changed in place: focus, hover and the place of a scroll stay.

import { artifact, get, mayChange } from "./api.js";
import { actionBar, deleteRuns, tagRuns } from "./actions.js";
import { ChartGroup, chartTools, LineChart } from "./charts.js";
import { ago, bytes, duration, flat, h, later, LIVE, percent, plain, put, say, shown, status } from "./dom.js";
import { explorer } from "./explorer.js";
import { FIGURES, long, term } from "./glossary.js";
import { banners, headline } from "./headline.js";
import { predictLink } from "./predict.js";

const LOG_BYTES = 20000;
const ENDINGS = ["training_complete", "training_stopped", "training_interrupted", "training_failed"];
const SYSTEM = [["cpu_percent", "CPU %", 1], ["gpu_percent", "GPU %", 1], ["memory_bytes", "memory GB", 1e-9], ["gpu_memory_bytes", "GPU memory GB", 1e-9],
  ["gpu_watts", "GPU W", 1], ["disk_free_bytes", "free disk GB", 1e-9]];

export async function runView(main, id) {
  const full = await mayChange;
  let run, metrics;
  let best = null;
  let warnings = [];
  let axis = "epoch";
  let labels = ["negative", "positive"];
  let patients = null;
  const system = [];
  const [state, facts, note, message, sentence, notes, error] = Array.from({ length: 7 }, () => h("div"));
  const title = h("h1", {}, h("span"), h("span", { class: "soft" }, ` run ${id}`));
  const tags = h("span", { class: "tags" });
  const buttons = actionBar(load);
  const remove = h("button", { type: "button", class: "danger", hidden: true, onclick: async () => { if (await deleteRuns([id])) location.hash = "#/"; } }, "Delete");
  const again = h("a", { class: "button", href: `#/new?from=${id}` }, "Run again with changes");
  const tag = h("button", { type: "button", onclick: async () => { if (await tagRuns([id])) await load(); } }, "Tag");
  const progress = progressBox();
  const tiles = h("div", { class: "tiles" });
  const group = new ChartGroup();
  const tools = chartTools(group, [["epoch", "epoch"], ["minutes", "minutes"]], (value) => { axis = value; group.set({ label: value, zoomed: null, at: null }); drawCharts(); });
  const loss = new LineChart("Loss", { group, mayLog: true });
  const shares = new LineChart("Validation figures", { group });
  const rate = new LineChart("Learning rate", { group, log: true, mayLog: true, step: true, show: (y) => y.toExponential(1) });
  const charts = h("div", { class: "grid" }, [loss, shares, rate].map((chart) => card(chart.element)));
  const machine = new LineChart("This machine, since the page was opened", { label: "minutes", show: plain });
  const machineCard = h("details", { class: "card" }, h("summary", {}, "System"), machine.element);
  const threshold = explorer(id, () => run, () => labels);
  const epochs = h("tbody");
  const table = h("details", { class: "card", hidden: true, ontoggle: () => drawTable() }, h("summary", {}, "Every epoch"), h("p", {}, h("a", { href: `/runs/${id}/metrics.csv`, download: true }, "as CSV")),
    h("div", { class: "table tall" }, h("table", {}, h("thead", {}, h("tr", {}, ["epoch", "train loss", "val. loss", ...FIGURES.map((key) => long(key)), "learning rate", "seconds"].map((name) => h("th", { class: "number", scope: "col" }, name)))), epochs)));
  const files = h("ul");
  const settings = h("div");
  const log = h("pre", { tabindex: 0, "aria-label": "log" });
  const output = h("pre", { tabindex: 0, "aria-label": "the worker's output" });
  const outputCard = h("section", { class: "card", hidden: true }, h("h2", {}, "The worker's output"), output);
  const report = h("a", { class: "button", hidden: true, target: "_blank" }, "Report");
  const predict = h("span");
  put(main, title, h("div", { class: "bar" }, state, buttons.element, report, predict, full ? [again, tag, remove] : null, tags), facts, note, message, progress.element, error, sentence, notes, tiles,
    tools, charts, threshold.element, machineCard, card(h("h2", {}, "Log"), log), outputCard, table, card(h("h2", {}, "Files"), files), settings);

  async function load() {
    const [one, two, three] = await Promise.all([get(`/runs/${id}`), get(`/runs/${id}/metrics`), get(`/runs/${id}/events?event=warning`)]);
    [run, metrics, warnings] = [one, two.metrics, three.events];
    best = run.best_epoch;
    await readValidation();
    drawHead();
    drawFigures();
    drawSettings();
    await Promise.all([threshold.load(), drawLog()]);
    return run.last_event_id;
  }

  const has = (name) => run.artifacts.some((file) => file.name === name);

  async function readValidation() {
    if (!has("validation") || patients) return;
    try {
      const read = JSON.parse(await artifact(id, "validation"));
      labels = read.label_names ?? labels;
      patients = read.patients ?? {};
    } catch { /* it is being written; the next load reads it */ }
  }

  function drawHead() {
    const live = LIVE.includes(run.status);
    say(title.firstChild, run.run_name);
    if (state.dataset.status !== run.status) put(state, status(run.status));
    state.dataset.status = run.status;
    buttons.update(run, full);
    remove.hidden = live;
    const file = run.artifacts.find((one) => one.name === "report");
    report.hidden = !file;
    if (file) report.href = file.url;
    if (!predict.firstChild) put(predict, predictLink(run));
    put(tags, run.tags.map((word) => h("span", { class: "tag" }, word)));
    put(facts, h("p", { class: "soft small" }, factsOf(run)));
    put(note, run.run_description ? h("p", {}, run.run_description) : null);
    put(message, run.status === "queued" ? h("p", {}, "Waits for a free device.") : run.status === "preparing" ? h("p", {}, "The data are being checked and decoded.") : null);
    progress.element.hidden = run.status !== "in_progress";
    progress.update(run);
    put(error, run.error ? h("section", { class: "card error" }, h("h2", {}, run.status === "failed" ? "It failed" : "It ended"), h("pre", {}, run.error)) : null);
    put(sentence, live ? null : headline(run, labels, patients));
    drawBanners();
  }

  const drawBanners = () => put(notes, banners(run, warnings));

  function drawFigures() {
    // Of an ended run the figures of its result, at the model's own threshold, as the headline has them.
    const ended = LIVE.includes(run.status) ? null : run.result?.validation;
    const row = ended ? Object.fromEntries(FIGURES.map((key) => [key, ended[key.slice(4)]])) : metrics.find((one) => one.epoch === best) ?? metrics.at(-1);
    const cut = ended?.threshold ?? 0.5; // an epoch's figures know no other threshold
    const word = best ? `kept epoch ${best}` : "last epoch";
    const at = (key) => (key === "val_auroc" ? word : `${word}, at ${plain(cut)}`);
    put(tiles, row ? FIGURES.map((key) => h("div", { class: "tile" }, h("span", { class: "soft small" }, term(key)), h("b", {}, key === "val_auroc" ? (row[key]?.toFixed(3) ?? "–") : percent(row[key])),
      h("span", { class: "soft small" }, at(key)))) : null);
    drawCharts();
    table.hidden = !metrics.length;
    say(table.firstChild, `Every epoch (${metrics.length})`);
    drawTable();
  }

  function drawCharts() {
    let spent = 0;
    const xs = metrics.map((one) => { spent += one.epoch_seconds ?? 0; return axis === "epoch" ? one.epoch : spent / 60; });
    const lines = (keys) => keys.map(([key, name]) => ({ name, points: metrics.map((one, i) => [xs[i], one[key]]) }));
    const at = metrics.findIndex((one) => one.epoch === best);
    const marks = at < 0 ? [] : [{ x: xs[at], text: "kept" }];
    loss.update(lines([["train_loss", "training"], ["val_loss", "validation"]]), { marks });
    shares.update(lines(FIGURES.map((key) => [key, long(key)])), { marks });
    rate.update(lines([["learning_rate", "learning rate"]]), { marks });
  }

  // A row for each epoch, only while somebody looks; rows that are there already stay.
  function drawTable() {
    if (!table.open) return;
    metrics.forEach((one, i) => {
      const texts = [one.epoch, plain(one.train_loss), plain(one.val_loss), ...FIGURES.map((key) => plain(one[key])), plain(one.learning_rate), plain(one.epoch_seconds)];
      const row = epochs.rows[i] ?? epochs.appendChild(h("tr", {}, texts.map(() => h("td", { class: "number" }))));
      row.className = one.epoch === best ? "best" : "";
      texts.forEach((text, n) => say(row.cells[n], String(text)));
    });
    while (epochs.rows.length > metrics.length) epochs.lastChild.remove();
  }

  async function drawLog() {
    await tail(log, has("log") ? await artifact(id, "log", LOG_BYTES) : null);
    const failed = run.status === "failed" && has("console");
    outputCard.hidden = !failed;
    if (failed) await tail(output, await artifact(id, "console", LOG_BYTES));
  }
  const logSoon = later(500, () => drawLog().catch(() => {}));

  function drawSettings() {
    put(files, run.artifacts.map((file) => h("li", {}, h("a", file.name === "report" ? { href: file.url, target: "_blank" } : { href: file.url, download: true }, file.file), h("span", { class: "soft" }, ` ${bytes(file.bytes)}: ${file.about}`))));
    const open = [...settings.querySelectorAll("details")].map((details) => details.open);
    const { hardware, packages, code } = run.manifest ?? {};
    put(settings, h("details", { class: "card", open: open[0] }, h("summary", {}, "Configuration"), pairs(Object.entries(flat(run.config)))),
      h("details", { class: "card", open: open[1] }, h("summary", {}, "Environment"), run.manifest ? pairs(Object.entries({ ...hardware, ...packages, ...code })) : h("p", { class: "soft" }, "Known once the data are prepared.")));
  }

  const since = await load();
  const began = Date.now();
  return {
    since,
    attached() { for (const one of [log, output]) one.scrollTop = one.scrollHeight; },
    onEvent(event) {
      if (event.run_id !== id) return;
      if (event.event === "training_progress") {
        run.progress = event;
        progress.update(run);
      } else if (event.event === "training_metrics_update") {
        metrics = [...metrics.filter((row) => row.epoch !== event.epoch), event].sort((a, b) => a.epoch - b.epoch);
        if (event.is_best) best = event.epoch;
        drawFigures();
        logSoon();
      } else if (event.event === "system_metrics") {
        system.push([(Date.now() - began) / 60000, event]);
        machine.update(SYSTEM.filter(([key]) => event[key] != null).map(([key, name, unit]) => ({ name, points: system.map(([at, one]) => [at, one[key] == null ? null : one[key] * unit]) })));
      } else if (event.event === "warning") {
        warnings.push(event);
        drawBanners();
      } else if (event.event === "checkpoint_saved") {
        if (event.reason === "best") load().catch(() => {}); // scores and files of its own
      } else if (ENDINGS.includes(event.event) || ["training_started", "training_resumed"].includes(event.event)) load().catch(() => {});
    },
    async refresh() {
      if ((await get(`/runs/${id}`)).status !== run.status) await load();
    },
  };
}

const card = (...children) => h("section", { class: "card" }, children);

// At its end, and kept there unless somebody has scrolled up.
async function tail(pre, text) {
  const below = pre.scrollHeight - pre.scrollTop - pre.clientHeight < 30;
  say(pre, text || "Nothing yet.");
  if (below) pre.scrollTop = pre.scrollHeight;
}

function factsOf(run) {
  const parts = [["created ", ago(run.created_at)]];
  if (run.training_time) parts.push(`trained ${duration(run.training_time)}`);
  if (run.total_epochs_run) parts.push(`${run.total_epochs_run} epochs${run.early_stopped ? ", stopped early" : ""}`);
  if (run.dataset_path) parts.push(run.dataset_path.split("/").at(-1));
  return parts.flatMap((part, i) => (i ? [" · ", part] : part));
}

function progressBox() {
  const whole = h("progress", { max: 1, value: 0, "aria-label": "progress of the run" });
  const phase = h("progress", { max: 1, value: 0, "aria-label": "progress of this phase" });
  const [first, second] = [h("div"), h("div", { class: "soft small" })];
  return {
    element: h("section", { class: "card", hidden: true }, first, whole, second, phase),
    update(run) {
      const { epoch, phase: name, step, steps, images_per_second: speed, eta_seconds: left, run_eta_seconds: all } = run.progress ?? {};
      const epochs = run.config?.experiment?.epochs;
      if (!epoch) { say(first, "Beginning."); return; }
      const inEpoch = name === "train" ? (0.9 * step) / steps : 0.9 + (0.1 * step) / steps;
      say(first, `Epoch ${epoch} of ${epochs}${all == null ? "" : `, ${duration(all)} left at most`}`);
      whole.value = Math.min(1, (epoch - 1 + inEpoch) / epochs);
      say(second, `${name === "train" ? "training" : "validation"}: step ${step} of ${steps}, ${plain(speed)} images/s, ${duration(left)} left in this phase`);
      phase.value = steps ? step / steps : 0;
    },
  };
}

function pairs(entries) {
  return h("div", { class: "table" }, h("table", { class: "pairs" }, h("tbody", {}, entries.map(([key, value]) => h("tr", {}, h("th", { scope: "row" }, key), h("td", {}, shown(value)))))));
}
