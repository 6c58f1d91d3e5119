// What can be read off the scores of a run's kept epoch (scores_N.csv: filename,label,score).

export function parseScores(text) {
  const [header = [], ...rows] = parseCsv(text);
  const [file, label, score] = ["filename", "label", "score"].map((name) => header.indexOf(name));
  if (label < 0 || score < 0) throw new Error("the file of scores has no label and score");
  return rows.map((row) => ({ file: row[file] ?? "", label: Number(row[label] || NaN), score: Number(row[score] || NaN) }))
    .filter((image) => Number.isFinite(image.label) && Number.isFinite(image.score));
}

// Rows of fields, as RFC 4180 has them: a quoted field may hold commas, quotes and line breaks.
function parseCsv(text) {
  const rows = [];
  let row = [];
  for (const [whole, field, end] of text.matchAll(/("(?:[^"]|"")*"|[^,"\r\n]*)(,|\r?\n|$)/g)) {
    if (!whole && !row.length) break; // the end of the text
    row.push(field.startsWith('"') ? field.slice(1, -1).replaceAll('""', '"') : field);
    if (end !== ",") {
      rows.push(row);
      row = [];
    }
  }
  return rows;
}

// {roc: [[false positive rate, recall], ...], precision: [[recall, precision], ...], area}; equal
// scores are one step, as in Fawcett (2006), An introduction to ROC analysis.
export function curves(images) {
  const sorted = [...images].sort((a, b) => b.score - a.score);
  const positives = sorted.filter((image) => image.label === 1).length;
  const negatives = sorted.length - positives;
  const [roc, precision] = [[[0, 0]], []];
  let [tp, fp, area] = [0, 0, 0];
  sorted.forEach((image, i) => {
    if (image.label === 1) tp += 1; else fp += 1;
    if (i + 1 < sorted.length && sorted[i + 1].score === image.score) return;
    const [x, y] = roc.at(-1);
    roc.push([fp / negatives, tp / positives]);
    area += ((fp / negatives - x) * (tp / positives + y)) / 2;
    precision.push([tp / positives, tp / (tp + fp)]);
  });
  return { roc, precision, area };
}

export function confusion(images, threshold) {
  const counts = { tp: 0, fp: 0, tn: 0, fn: 0 };
  for (const image of images) {
    const called = image.score >= threshold;
    counts[image.label === 1 ? (called ? "tp" : "fn") : called ? "fp" : "tn"] += 1;
  }
  return counts;
}

// A share with its 95 % interval: Wilson (1927). Null where there is nothing to count.
export function share(count, total) {
  if (!total) return null;
  const [p, z] = [count / total, 1.959964];
  const middle = p + (z * z) / (2 * total);
  const half = z * Math.sqrt((p * (1 - p)) / total + (z * z) / (4 * total * total));
  return { value: p, low: Math.max(0, (middle - half) / (1 + (z * z) / total)), high: Math.min(1, (middle + half) / (1 + (z * z) / total)), count, total };
}

export function figures({ tp, fp, tn, fn }) {
  return { val_recall: share(tp, tp + fn), val_specificity: share(tn, tn + fp), val_precision: share(tp, tp + fp), npv: share(tn, tn + fn) };
}

// The images that the model was most sure of and wrong about.
export function surestMistakes(images, threshold, count = 12) {
  return images.filter((image) => (image.score >= threshold) !== (image.label === 1))
    .sort((a, b) => Math.abs(b.score - threshold) - Math.abs(a.score - threshold)).slice(0, count);
}

// The thresholds that the usual rules choose on these images, as engine/metrics/operating.py does:
// half way to the next lower score. Rules that cannot be met are left out.
export function operatingPoints(images) {
  const positives = images.filter((image) => image.label === 1).length;
  const negatives = images.length - positives;
  const points = [{ rule: "default_0.5", threshold: 0.5 }];
  if (!positives || !negatives) return points;
  const sorted = [...images].sort((a, b) => b.score - a.score);
  const cuts = [];
  let [tp, fp] = [0, 0];
  sorted.forEach((image, i) => {
    if (image.label === 1) tp += 1; else fp += 1;
    const next = sorted[i + 1]?.score;
    if (next === image.score || next == null) return; // calling every image positive is no rule
    cuts.push({ threshold: (image.score + next) / 2, recall: tp / positives, specificity: 1 - fp / negatives });
  });
  const best = (cuts, value) => cuts.reduce((one, other) => (one && value(one) >= value(other) ? one : other), null);
  for (const [rule, point] of [
    ["specificity>=0.90", best(cuts.filter((cut) => cut.specificity >= 0.9), (cut) => cut.recall + 1e-6 * cut.specificity)],
    ["sensitivity>=0.95", best(cuts.filter((cut) => cut.recall >= 0.95), (cut) => cut.specificity + 1e-6 * cut.recall)],
    ["youden", best(cuts, (cut) => cut.recall + cut.specificity)],
  ]) if (point) points.push({ rule, threshold: point.threshold });
  return points;
}
