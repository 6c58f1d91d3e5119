// One run: state, charts as they grow, curves, settings, log, files.

import { artifact, get } from "./api.js";
import { actions, deleteButton } from "./actions.js";
import { confusionMatrix, curveChart, lineChart } from "./charts.js";
import { bytes, duration, h, LIVE, percent, plain, put, status, when } from "./dom.js";
import { predictLink } from "./predict.js";
import { confusion, curves, parseScores } from "./scores.js";

const SHARES = [["val_recall", "recall"], ["val_specificity", "specificity"], ["val_precision", "precision"], ["val_f1", "F1"], ["val_auroc", "AUROC"]];
const LOG_BYTES = 6000;
const ENDINGS = ["training_complete", "training_stopped", "training_interrupted", "training_failed"];

export async function runView(main, id) {
  const [head, tiles, charts, judged, table, settings, log] = Array.from({ length: 7 }, () => h("div"));
  let run, metrics;
  let best = null;
  put(main, head, tiles, charts, judged, log, table, settings);

  async function load() {
    [run, { metrics }] = await Promise.all([get(`/runs/${id}`), get(`/runs/${id}/metrics`)]);
    best = run.best_epoch;
    drawHead();
    drawFigures();
    drawSettings();
    await Promise.all([drawScores(), drawLog()]);
    return run.last_event_id;
  }

  const has = (name) => run.artifacts.some((file) => file.name === name);

  function drawHead() {
    const live = LIVE.includes(run.status);
    put(head,
      h("h1", {}, run.run_name, h("span", { class: "soft" }, ` run ${run.run_id}`)),
      h("div", { class: "bar" }, status(run.status), actions(run, load), live ? null : deleteButton(run), predictLink(run),
        h("span", { class: "soft small" }, facts(run))),
      run.run_description ? h("p", {}, run.run_description) : null,
      run.status === "queued" ? h("p", {}, "Waits for a free device.") : null,
      run.status === "preparing" ? h("p", {}, "The data are being checked and decoded.") : null,
      run.status === "in_progress" ? progressOf(run) : null,
      run.error ? h("section", { class: "card error" }, h("h2", {}, run.status === "failed" ? "It failed" : "It ended"), h("pre", {}, run.error)) : null);
  }

  function drawFigures() {
    const shown = metrics.find((row) => row.epoch === best) ?? metrics.at(-1);
    const word = best ? `epoch ${best}, the best` : "last epoch";
    tiles.className = "tiles";
    put(tiles, ...(shown ? SHARES.map(([key, name]) => h("div", { class: "tile" },
      h("span", { class: "soft small" }, `${name} (${word})`), h("b", {}, key === "val_auroc" ? (shown[key]?.toFixed(3) ?? "–") : percent(shown[key])))) : []));
    const lines = (pairs) => pairs.map(([key, name]) => ({ name, points: metrics.map((row) => [row.epoch, row[key]]) }));
    const mark = best ? { x: best, text: "best" } : undefined;
    charts.className = "grid";
    put(charts,
      card(lineChart("Loss", lines([["train_loss", "training"], ["val_loss", "validation"]]), { mark })),
      card(lineChart("Validation figures", lines(SHARES), { mark, range: [0, 1] })),
      card(lineChart("Learning rate", lines([["learning_rate", "learning rate"]]), { mark, log: true, show: (y) => y.toExponential(1) })));
    put(table, metrics.length ? h("details", { class: "card", open: table.querySelector("details")?.open },
      h("summary", {}, `Every epoch (${metrics.length})`),
      h("div", { class: "table" }, h("table", {},
        h("thead", {}, h("tr", {}, ["epoch", "train loss", "val loss", ...SHARES.map(([, name]) => name), "learning rate", "seconds"].map((name) => h("th", { class: "number", scope: "col" }, name)))),
        h("tbody", {}, metrics.map((row) => h("tr", { class: row.epoch === best ? "best" : "" },
          [row.epoch, plain(row.train_loss), plain(row.val_loss), ...SHARES.map(([key]) => plain(row[key])), plain(row.learning_rate), plain(row.epoch_seconds)]
            .map((text) => h("td", { class: "number" }, String(text))))))))) : "");
  }

  async function drawScores() {
    if (!has("scores")) return;
    const text = await artifact(id, "scores");
    const images = parseScores(text);
    const { roc, precision } = curves(images);
    const threshold = run.result?.validation?.threshold ?? 0.5;
    const { label_names: [negative, positive] } = JSON.parse(await artifact(id, "validation"));
    judged.className = "grid judged";
    put(judged,
      card(h("h2", {}, "Confusion matrix"), confusionMatrix(confusion(images, threshold), negative, positive),
        h("p", { class: "soft small" }, `The kept epoch on ${images.length} validation images, threshold ${threshold}.`), intervals(run.result)),
      card(curveChart("ROC curve", roc, "false positive rate")),
      card(curveChart("Precision over recall", precision, "recall")));
  }

  async function drawLog() {
    const lines = has("log") ? await artifact(id, "log", LOG_BYTES) : null;
    const output = run.status === "failed" && has("console") ? await artifact(id, "console", LOG_BYTES) : null;
    put(log, h("section", { class: "card" }, h("h2", {}, "Log"),
      lines ? h("pre", { tabindex: 0, "aria-label": "log" }, lines) : h("p", { class: "soft" }, "Nothing yet."),
      output ? [h("h2", {}, "The worker's output"), h("pre", { tabindex: 0 }, output)] : null));
    const shown = log.querySelector("pre");
    if (shown) requestAnimationFrame(() => { shown.scrollTop = shown.scrollHeight; }); // once it is in the page
  }

  function drawSettings() {
    const open = [...settings.querySelectorAll("details")].map((details) => details.open);
    const { hardware, packages, code } = run.manifest ?? {};
    const flat = Object.entries(run.config).flatMap(([section, keys]) => Object.entries(keys).map(([key, value]) => [`${section}.${key}`, value]));
    put(settings,
      h("section", { class: "card" }, h("h2", {}, "Files"), h("ul", {}, run.artifacts.map((file) =>
        h("li", {}, h("a", file.name === "report" ? { href: file.url, target: "_blank" } : { href: file.url, download: true }, file.file),
          h("span", { class: "soft" }, ` ${bytes(file.bytes)}: ${file.about}`))))),
      h("details", { class: "card", open: open[0] }, h("summary", {}, "Configuration"), pairs(flat)),
      h("details", { class: "card", open: open[1] }, h("summary", {}, "Environment"),
        run.manifest ? pairs(Object.entries({ ...hardware, ...packages, ...code })) : h("p", { class: "soft" }, "Known once the data are prepared.")));
  }

  const since = await load();
  return {
    since,
    onEvent(event) {
      if (event.run_id !== id) return;
      if (event.event === "training_progress") {
        run.progress = event;
        drawHead();
      } else if (event.event === "training_metrics_update") {
        metrics = [...metrics.filter((row) => row.epoch !== event.epoch), event].sort((a, b) => a.epoch - b.epoch);
        if (event.is_best) best = event.epoch;
        drawFigures();
        drawLog();
      } else if (event.event === "checkpoint_saved") {
        if (event.reason === "best") load(); // scores and files of its own
      } else if (ENDINGS.includes(event.event) || ["training_started", "training_resumed"].includes(event.event) || event.event === "warning") load();
    },
    async refresh() {
      if ((await get(`/runs/${id}`)).status !== run.status) await load();
    },
  };
}

const card = (...children) => h("section", { class: "card" }, children);

function facts(run) {
  const parts = [`created ${when(run.created_at)}`];
  if (run.training_time) parts.push(`trained ${duration(run.training_time)}`);
  if (run.total_epochs_run) parts.push(`${run.total_epochs_run} epochs${run.early_stopped ? ", stopped early" : ""}`);
  if (run.dataset_path) parts.push(run.dataset_path.split("/").at(-1));
  return parts.join(" · ");
}

function progressOf(run) {
  const { epoch, phase, step, steps, images_per_second: speed, eta_seconds: left } = run.progress ?? {};
  if (!epoch) return h("p", {}, "Beginning.");
  return h("div", { class: "card" },
    h("div", {}, `epoch ${epoch} of ${run.config.experiment.epochs}, ${phase}: step ${step} of ${steps}, ${plain(speed)} images/s, ${duration(left)} left in this phase`),
    h("progress", { max: steps, value: step, "aria-label": "progress of this phase" }));
}

function intervals(result) {
  const found = result?.validation?.intervals;
  if (!found) return null;
  const text = Object.entries(found).map(([name, [low, high]]) => `${name} ${percent(low)} to ${percent(high)}`);
  return h("p", { class: "soft small" }, `95 % intervals: ${text.join(", ")}.`);
}

function pairs(entries) {
  return h("div", { class: "table" }, h("table", {}, h("tbody", {}, entries.map(([key, value]) =>
    h("tr", {}, h("th", { scope: "row" }, key), h("td", {}, typeof value === "object" && value !== null ? JSON.stringify(value) : String(value)))))));
}
