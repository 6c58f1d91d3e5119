// Two models on the same images: the difference of their AUROCs (DeLong et al. 1988).

// `one` and `other`: [{file, label, score}]. Null where there is nothing to compare; {same: false}
// where the images or their labels differ; else difference (other - one), low, high, p, count.
export function comparePaired(one, other) {
  if (!one?.length || !other?.length) return null;
  const scores = new Map(other.map((image) => [image.file, image]));
  if (one.length !== other.length || !one.every((image) => scores.get(image.file)?.label === image.label)) return { same: false };
  const labels = one.map((image) => image.label === 1);
  const [a, b] = [one.map((image) => image.score), one.map((image) => scores.get(image.file).score)].map((values) => components(values, labels));
  if (!a) return null;
  const difference = b.area - a.area;
  const variance = spread(a.positive, b.positive) / a.positive.length + spread(a.negative, b.negative) / a.negative.length;
  const half = 1.959964 * Math.sqrt(variance);
  const p = variance > 0 ? 2 * (1 - normal(Math.abs(difference) / Math.sqrt(variance))) : null;
  return { same: true, difference, low: difference - half, high: difference + half, p, count: one.length };
}

// For each positive the share of negatives below it, for each negative that of positives above it.
function components(scores, labels) {
  const positives = scores.filter((_, i) => labels[i]).sort((a, b) => a - b);
  const negatives = scores.filter((_, i) => !labels[i]).sort((a, b) => a - b);
  if (positives.length < 2 || negatives.length < 2) return null;
  const below = (sorted, value) => (count(sorted, value, false) + count(sorted, value, true)) / 2 / sorted.length; // ties count half
  const positive = scores.filter((_, i) => labels[i]).map((value) => below(negatives, value));
  const negative = scores.filter((_, i) => !labels[i]).map((value) => 1 - below(positives, value));
  return { positive, negative, area: positive.reduce((a, b) => a + b) / positive.length };
}

function count(sorted, value, inclusive) {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (inclusive ? sorted[middle] <= value : sorted[middle] < value) low = middle + 1; else high = middle;
  }
  return low;
}

// The variance of the difference of two lists that belong together.
function spread(a, b) {
  const differences = a.map((value, i) => b[i] - value);
  const mean = differences.reduce((x, y) => x + y) / differences.length;
  return differences.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (differences.length - 1);
}

// The normal distribution function: Abramowitz & Stegun 26.2.17, to 7.5e-8.
function normal(z) {
  const t = 1 / (1 + 0.2316419 * z);
  const poly = t * (0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
  return 1 - (Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI)) * poly;
}
