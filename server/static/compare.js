// Several runs: charts of figures, their kept epochs side by side, what differs, a paired test.

import { artifact, get } from "./api.js";
import { ChartGroup, chartTools, LineChart } from "./charts.js";
import { duration, flat, h, later, plain, put, shown, status } from "./dom.js";
import { FIGURES, long, LOW_IS_GOOD, term } from "./glossary.js";
import { comparePaired } from "./paired.js";
import { parseScores } from "./scores.js";

const CHARTS = [...FIGURES, "val_loss", "train_loss", "learning_rate"];
const TESTED = 12; // runs whose scores are fetched for the paired test

export async function compareView(main, ids, query) {
  const charted = query.get("figures")?.split(",").filter((key) => CHARTS.includes(key)) ?? ["val_auroc", "val_loss"];
  let runs = [];
  let axis = "epoch";
  const group = new ChartGroup();
  const charts = h("div", { class: "charts" });
  const tables = h("div");
  const tested = h("div");
  const made = new Map();
  const boxes = CHARTS.map((key) => {
    const box = h("input", { type: "checkbox", onchange: () => {
      box.checked ? charted.push(key) : charted.splice(charted.indexOf(key), 1);
      history.replaceState(null, "", `#/compare/${ids.join(",")}?figures=${charted.join()}`);
      drawCharts();
    } });
    box.checked = charted.includes(key);
    return h("label", { class: "inline" }, box, ` ${long(key)}`);
  });
  put(main, h("h1", {}, ids.length > 6 ? `Compare ${ids.length} runs` : `Compare runs ${ids.join(", ")}`), h("div", { class: "bar", role: "group", "aria-label": "figures" }, boxes),
    chartTools(group, [["epoch", "epoch"], ["minutes", "minutes"]], (value) => { axis = value; group.set({ label: value, zoomed: null, at: null }); drawCharts(); }), charts, tables, tested);

  async function load() {
    const answer = await get(`/compare?run_ids=${ids.join(",")}`);
    runs = ids.map((id) => answer.runs.find((run) => run.run_id === id)).filter(Boolean);
    if (!runs.length) throw new Error("These runs do not exist any more.");
    drawCharts();
    drawTables();
    return answer.last_event_id;
  }

  const nameOf = (run) => `${run.run_id} ${run.run_name}`;

  function drawCharts() {
    for (const key of CHARTS) {
      if (!charted.includes(key)) { if (made.has(key)) { group.charts.delete(made.get(key)); made.delete(key); } continue; }
      if (!made.has(key)) made.set(key, new LineChart(long(key), { group, mayLog: LOW_IS_GOOD.includes(key) || key === "learning_rate", log: key === "learning_rate", step: key === "learning_rate", show: plain }));
      made.get(key).update(runs.map((run) => {
        let spent = 0;
        return { name: nameOf(run), points: run.metrics.map((row) => { spent += row.epoch_seconds ?? 0; return [axis === "epoch" ? row.epoch : spent / 60, row[key]]; }) };
      }));
    }
    const wanted = CHARTS.filter((key) => made.has(key)).map((key) => made.get(key).element);
    if (wanted.some((element, i) => charts.children[i]?.firstChild !== element) || charts.children.length !== wanted.length) put(charts, wanted.map((element) => h("section", { class: "card" }, element)));
  }

  function drawTables() {
    put(tables, h("section", { class: "card table" }, h("h2", {}, "What differs"), differences()), h("section", { class: "card table" }, h("h2", {}, "Kept epochs"), table([
      ["state", ...runs.map((run) => status(run.status))], ["kept epoch", ...runs.map((run) => run.best_epoch ?? "–")],
      ...[...FIGURES, "val_loss", "train_loss"].map((key) => best(key)), ["time", ...runs.map((run) => duration(run.training_time))]])));
  }

  // The best value of a row is marked, where it is better than another one.
  function best(key) {
    const values = runs.map((run) => keptOf(run)?.[key]);
    const known = values.filter((value) => value != null);
    const top = LOW_IS_GOOD.includes(key) ? Math.min(...known) : Math.max(...known);
    const differ = new Set(known.map(plain)).size > 1;
    return [term(key), ...values.map((value) => (differ && value != null && plain(value) === plain(top) ? h("strong", { class: "top", title: "the best of these runs" }, plain(value)) : plain(value)))];
  }

  function differences() {
    const all = runs.map((run) => ({ data: run.dataset_fingerprint ?? run.dataset_path, device: run.device, ...flat(run.config) }));
    const rows = Object.keys(Object.assign({}, ...all)).filter((key) => !key.startsWith("output.") && new Set(all.map((one) => shown(one[key]))).size > 1).map((key) => [key, ...all.map((one) => shown(one[key]))]);
    return rows.length ? table(rows) : h("p", { class: "soft" }, "Nothing: data, device and settings are the same.");
  }

  const table = (rows) => h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "run"), runs.map((run) => h("th", { scope: "col" }, h("a", { href: `#/runs/${run.run_id}` }, nameOf(run)))))),
    h("tbody", {}, rows.map(([name, ...cells]) => h("tr", {}, h("th", { scope: "row" }, name), cells.map((cell) => h("td", {}, cell instanceof Node ? cell : String(cell)))))));

  // The first run against each other one, on the same images.
  async function drawTest() {
    const some = runs.slice(0, TESTED);
    const scores = await Promise.all(some.map(async (run) => { try { return run.scores ? parseScores(await artifact(run.run_id, "scores")) : null; } catch { return null; } }));
    const base = scores.findIndex(Boolean);
    if (scores.filter(Boolean).length < 2) return;
    const rows = some.map((run, i) => [run, comparePaired(scores[base], scores[i])]).filter((_, i) => i !== base);
    put(tested, h("section", { class: "card table" }, h("h2", {}, `AUROC against run ${nameOf(some[base])}`), h("table", {}, h("thead", {}, h("tr", {}, ["run", "difference", "95 % interval", "p", "on"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, rows.map(([run, found]) => h("tr", {}, h("th", { scope: "row" }, nameOf(run)), found?.same
        ? [h("td", {}, signed(found.difference)), h("td", {}, `${signed(found.low)} to ${signed(found.high)}`), h("td", {}, found.p == null ? "–" : found.p < 0.001 ? "< 0.001" : found.p.toFixed(3)), h("td", { class: "soft" }, `${found.count} images`)]
        : h("td", { colspan: 4 }, found ? "other validation images: the figures of these two runs cannot be compared directly" : "no scores"))))),
    h("p", { class: "soft small" }, "DeLong's test for two models on the same images. Images of one patient count as independent here, so the intervals are somewhat narrow; several looks at many runs find differences by chance.")));
  }

  const drawSoon = later(100, () => { drawCharts(); drawTables(); });
  const since = await load();
  drawTest().catch(() => {});
  return {
    since,
    onEvent(event) {
      const run = runs.find((one) => one.run_id === event.run_id);
      if (!run || ["training_progress", "system_metrics"].includes(event.event)) return;
      if (event.event === "training_metrics_update") {
        run.metrics = [...run.metrics.filter((row) => row.epoch !== event.epoch), event].sort((a, b) => a.epoch - b.epoch);
        if (event.is_best) run.best_epoch = event.epoch;
        drawSoon();
      } else load().catch(() => {});
    },
    refresh: load,
  };
}

const signed = (value) => (value >= 0 ? "+" : "–") + Math.abs(value).toFixed(3);
const keptOf = (run) => run.metrics.find((row) => row.epoch === run.best_epoch) ?? run.metrics.at(-1);
