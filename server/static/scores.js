// What can be read off the scores of a run's kept epoch (scores_N.csv: filename,label,score).

export function parseScores(text) {
  return text.trim().split("\n").slice(1).map((line) => {
    const fields = line.slice(line.lastIndexOf(",", line.lastIndexOf(",") - 1) + 1).split(",");
    return { label: Number(fields[0]), score: Number(fields[1]) };
  }).filter((film) => Number.isFinite(film.label) && Number.isFinite(film.score));
}

// {roc: [[false positive rate, recall], ...], precision: [[recall, precision], ...]}; equal scores
// are one step, as in Fawcett (2006), An introduction to ROC analysis.
export function curves(films) {
  const sorted = [...films].sort((a, b) => b.score - a.score);
  const positives = sorted.filter((film) => film.label === 1).length;
  const negatives = sorted.length - positives;
  const [roc, precision] = [[[0, 0]], []];
  let [tp, fp] = [0, 0];
  sorted.forEach((film, i) => {
    if (film.label === 1) tp += 1; else fp += 1;
    if (i + 1 < sorted.length && sorted[i + 1].score === film.score) return;
    roc.push([fp / negatives, tp / positives]);
    precision.push([tp / positives, tp / (tp + fp)]);
  });
  return { roc, precision };
}

export function confusion(films, threshold) {
  const counts = { tp: 0, fp: 0, tn: 0, fn: 0 };
  for (const film of films) {
    const called = film.score >= threshold;
    counts[film.label === 1 ? (called ? "tp" : "fn") : called ? "fp" : "tn"] += 1;
  }
  return counts;
}
