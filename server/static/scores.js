// What can be read off the scores of a run's kept epoch (scores_N.csv: filename,label,score).

export function parseScores(text) {
  const [header, ...rows] = parseCsv(text);
  const [label, score] = ["label", "score"].map((name) => header.indexOf(name));
  return rows.map((row) => ({ label: Number(row[label] || NaN), score: Number(row[score] || NaN) }))
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

// {roc: [[false positive rate, recall], ...], precision: [[recall, precision], ...]}; equal scores
// are one step, as in Fawcett (2006), An introduction to ROC analysis.
export function curves(images) {
  const sorted = [...images].sort((a, b) => b.score - a.score);
  const positives = sorted.filter((image) => image.label === 1).length;
  const negatives = sorted.length - positives;
  const [roc, precision] = [[[0, 0]], []];
  let [tp, fp] = [0, 0];
  sorted.forEach((image, i) => {
    if (image.label === 1) tp += 1; else fp += 1;
    if (i + 1 < sorted.length && sorted[i + 1].score === image.score) return;
    roc.push([fp / negatives, tp / positives]);
    precision.push([tp / positives, tp / (tp + fp)]);
  });
  return { roc, precision };
}

export function confusion(images, threshold) {
  const counts = { tp: 0, fp: 0, tn: 0, fn: 0 };
  for (const image of images) {
    const called = image.score >= threshold;
    counts[image.label === 1 ? (called ? "tp" : "fn") : called ? "fp" : "tn"] += 1;
  }
  return counts;
}
