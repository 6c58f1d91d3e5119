// Several runs: one chart of a figure, their best epochs side by side, what differs in their configs.

import { get } from "./api.js";
import { lineChart } from "./charts.js";
import { duration, h, plain, put, status } from "./dom.js";

const FIGURES = [["val_recall", "recall"], ["val_specificity", "specificity"], ["val_precision", "precision"], ["val_f1", "F1"],
  ["val_auroc", "AUROC"], ["val_loss", "validation loss"], ["train_loss", "training loss"], ["learning_rate", "learning rate"]];

export async function compareView(main, ids) {
  let runs = [];
  let figure = "val_auroc";
  const chart = h("section", { class: "card" });
  const tables = h("div");
  put(main, h("h1", {}, `Compare runs ${ids.join(", ")}`),
    h("div", { class: "bar" }, h("label", {}, "Figure ", h("select", { name: "figure", onchange: (event) => { figure = event.target.value; draw(); } },
      FIGURES.map(([key, name]) => h("option", { value: key, selected: key === figure }, name))))),
    chart, tables);

  async function load() {
    runs = await Promise.all(ids.map(async (id) => {
      const [run, { metrics }] = await Promise.all([get(`/runs/${id}`), get(`/runs/${id}/metrics`)]);
      return { ...run, metrics };
    }));
    draw();
    return Math.min(...runs.map((run) => run.last_event_id));
  }

  function draw() {
    const name = FIGURES.find(([key]) => key === figure)[1];
    put(chart, lineChart(name, runs.map((run) => ({
      name: `${run.run_id} ${run.run_name}`, points: run.metrics.map((row) => [row.epoch, row[figure]]),
    })), { log: figure === "learning_rate", show: plain }));
    put(tables,
      h("section", { class: "card table" }, h("h2", {}, "Best epochs"), table([
        ["state", ...runs.map((run) => status(run.status))],
        ["best epoch", ...runs.map((run) => run.best_epoch ?? "–")],
        ...FIGURES.slice(0, 7).map(([key, label]) => [label, ...runs.map((run) => plain(bestOf(run)?.[key]))]),
        ["time", ...runs.map((run) => duration(run.training_time))],
      ])),
      h("section", { class: "card table" }, h("h2", {}, "What differs"), differences()));
  }

  function differences() {
    const flat = runs.map((run) => ({
      data: run.dataset_fingerprint ?? run.dataset_path,
      device: run.manifest?.hardware?.device,
      ...Object.fromEntries(Object.entries(run.config).flatMap(([section, keys]) =>
        Object.entries(keys).map(([key, value]) => [`${section}.${key}`, value]))),
    }));
    const text = (value) => (value === undefined ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value));
    const rows = Object.keys(Object.assign({}, ...flat))
      .filter((key) => new Set(flat.map((one) => text(one[key]))).size > 1)
      .map((key) => [key, ...flat.map((one) => text(one[key]))]);
    return rows.length ? table(rows) : h("p", { class: "soft" }, "Nothing: data, device and settings are the same.");
  }

  function table(rows) {
    return h("table", {},
      h("thead", {}, h("tr", {}, h("th", {}), runs.map((run) => h("th", { scope: "col" },
        h("a", { href: `#/runs/${run.run_id}` }, `${run.run_id} ${run.run_name}`))))),
      h("tbody", {}, rows.map(([name, ...cells]) => h("tr", {}, h("th", { scope: "row" }, name),
        cells.map((cell) => h("td", {}, cell instanceof Node ? cell : String(cell)))))));
  }

  const since = await load();
  return {
    since,
    onEvent(event) {
      const run = runs.find((one) => one.run_id === event.run_id);
      if (!run || ["training_progress", "system_metrics"].includes(event.event)) return;
      if (event.event === "training_metrics_update") {
        run.metrics = [...run.metrics.filter((row) => row.epoch !== event.epoch), event].sort((a, b) => a.epoch - b.epoch);
        if (event.is_best) run.best_epoch = event.epoch;
        draw();
      } else load();
    },
    refresh: load,
  };
}

const bestOf = (run) => run.metrics.find((row) => row.epoch === run.best_epoch) ?? run.metrics.at(-1);
