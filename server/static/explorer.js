// The threshold: a slider over the confusion matrix, the ROC and the precision-recall curve.

import { artifact } from "./api.js";
import { confusionMatrix, LineChart } from "./charts.js";
import { h, later, percent, plain, put, say } from "./dom.js";
import { term } from "./glossary.js";
import { confusion, curves, figures, operatingPoints, parseScores, surestMistakes } from "./scores.js";

const NAMES = { val: "validation images", test: "test images" };
const FIGURES = ["val_recall", "val_specificity", "val_precision", "npv"];

// `get()` is the run as it is now; `labels()` the two class names.
export function explorer(id, run, labels) {
  const element = h("div");
  const roc = new LineChart("ROC curve", { label: "1 – specificity", range: [0, 1], fraction: true, diagonal: true });
  const precision = new LineChart("Precision over recall", { label: "sensitivity (recall)", range: [0, 1], fraction: true });
  const matrix = h("div");
  const values = Object.fromEntries(FIGURES.map((key) => [key, h("b", {}, "–")]));
  const ranges = Object.fromEntries(FIGURES.map((key) => [key, h("span", { class: "soft small" })]));
  const mistakes = h("div");
  const basis = h("p", { class: "soft small" });
  const points = h("div", { class: "points" });
  const slider = h("input", { type: "range", id: "threshold", min: 0, max: 1, step: 0.001, list: "points-list", oninput: () => move(Number(slider.value)) });
  const marks = h("datalist", { id: "points-list" });
  const number = h("input", { type: "number", min: 0, max: 1, step: "any", "aria-label": "threshold as a number", onchange: () => { if (number.checkValidity()) move(Number(number.value)); } });
  const part = h("select", { name: "part", onchange: () => load(part.value) }, h("option", { value: "val" }, NAMES.val), h("option", { value: "test" }, NAMES.test));
  const partField = h("label", { class: "inline" }, "Images ", part);
  const box = [h("section", { class: "card threshold" },
    h("div", { class: "bar" }, h("h2", {}, "What a threshold gives"), partField),
    h("div", { class: "field" }, h("label", { for: "threshold" }, term("threshold", "Threshold"), ": a score at or above it is called positive"), h("div", { class: "slider" }, slider, number)), marks, points,
    h("div", { class: "tiles" }, FIGURES.map((key) => h("div", { class: "tile" }, h("span", { class: "soft small" }, term(key)), values[key], ranges[key])))),
  h("div", { class: "grid judged" }, h("section", { class: "card" }, h("h2", {}, "Confusion matrix"), matrix, basis),
    h("section", { class: "card" }, roc.element), h("section", { class: "card" }, precision.element)), mistakes];
  let images = null;
  let drawn = null;
  let kept = [];
  const listMistakes = later(150, drawMistakes);

  async function load(which = "val", threshold) {
    const name = which === "test" ? "scores_test" : "scores";
    const has = (one) => run().artifacts.some((file) => file.name === one);
    if (!has(name)) return;
    partField.hidden = !has("scores_test");
    const text = await artifact(id, name);
    if (text == null || text === drawn) return;
    try {
      images = parseScores(text);
    } catch (error) {
      put(element, h("section", { class: "card" }, h("h2", {}, "What a threshold gives"), h("p", {}, `The scores cannot be read: ${error.message}. They may still be being written.`)));
      return;
    }
    drawn = text;
    part.value = which;
    const { roc: rocPoints, precision: precisionPoints, area } = curves(images);
    const stored = run().result?.operating_points;
    kept = stored ? Object.entries(stored).map(([rule, point]) => ({ rule, threshold: point.threshold })) : operatingPoints(images);
    put(points, kept.map((point) => h("button", { type: "button", class: "plain", onclick: () => move(point.threshold) }, `${point.rule.replace("default_0.5", "0.5")} (${plain(point.threshold)})`)));
    put(marks, kept.map((point) => h("option", { value: point.threshold })));
    Object.assign(roc, { title: `ROC curve, area ${area.toFixed(3)}` });
    say(roc.place, Number.isFinite(area) ? `area ${area.toFixed(3)}` : "");
    roc.curve = [{ name: "ROC curve", points: rocPoints }];
    precision.curve = [{ name: "precision over recall", points: precisionPoints }];
    if (!element.isConnected || !element.children.length || element.children[0] !== box[0]) put(element, box);
    move(threshold ?? run().result?.[which === "test" ? "test" : "validation"]?.threshold ?? 0.5);
  }

  function move(threshold) {
    if (!images) return;
    slider.value = threshold;
    number.value = plain(threshold);
    const counts = confusion(images, threshold);
    const [negative, positive] = labels();
    put(matrix, confusionMatrix(counts, negative, positive));
    say(basis, `The kept epoch on ${images.length} ${NAMES[part.value]}. Intervals are 95 %, by image (Wilson).`);
    const found = figures(counts);
    for (const key of FIGURES) {
      say(values[key], percent(found[key]?.value));
      say(ranges[key], found[key] ? `${percent(found[key].low)} to ${percent(found[key].high)}` : "nothing to count");
    }
    const at = (t, big, text) => {
      const f = figures(confusion(images, t));
      return { roc: { x: 1 - (f.val_specificity?.value ?? 0), y: f.val_recall?.value ?? 0, big, text }, pr: { x: f.val_recall?.value ?? 0, y: f.val_precision?.value ?? 1, big, text } };
    };
    const dots = [...kept.map((point) => at(point.threshold, false, point.rule)), at(threshold, true, `threshold ${plain(threshold)}`)];
    roc.update(roc.curve, { dots: dots.map((dot) => dot.roc) });
    precision.update(precision.curve, { dots: dots.map((dot) => dot.pr) });
    slider.setAttribute("aria-valuetext", `${plain(threshold)}: sensitivity ${percent(found.val_recall?.value)}, specificity ${percent(found.val_specificity?.value)}`);
    listMistakes();
  }

  function drawMistakes() {
    const wrong = surestMistakes(images, Number(number.value));
    const [negative, positive] = labels();
    put(mistakes, wrong.length ? h("details", { class: "card", open: mistakes.querySelector("details")?.open }, h("summary", {}, `Surest mistakes (${wrong.length})`),
      h("div", { class: "table" }, h("table", {}, h("thead", {}, h("tr", {}, ["image", "is", "called", "score"].map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, wrong.map((image) => h("tr", {}, h("td", {}, image.file), h("td", {}, image.label === 1 ? positive : negative),
          h("td", {}, image.label === 1 ? negative : positive), h("td", { class: "number" }, image.score.toFixed(4)))))))) : null);
  }

  return { element, load: (which) => load(which ?? part.value) };
}
