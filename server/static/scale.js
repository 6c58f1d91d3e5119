// Numbers for charts: extents, scales, ticks, smoothing, decimation. Pure functions.

export function extent(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low === high ? [low - (Math.abs(low) || 1) * 0.1, high + (Math.abs(high) || 1) * 0.1] : [low, high];
}

export function scale([low, high], from, to, log) {
  const f = log ? Math.log10 : (x) => x;
  const to1 = (to - from) / (f(high) - f(low) || 1);
  return (value) => from + (f(value) - f(low)) * to1;
}

export function ticks([low, high], count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => +((first + i) * step).toPrecision(12));
}

export function logTicks([low, high]) {
  const powers = [];
  for (let p = Math.ceil(Math.log10(low) - 1e-9); p <= Math.log10(high) + 1e-9; p += 1) powers.push(10 ** p);
  if (powers.length > 1) return powers.filter((_, i) => i % Math.ceil(powers.length / 6) === 0);
  return [low, high].map((value) => +value.toPrecision(2));
}

// Exponential moving average, without the pull of its first value (as in Adam, Kingma & Ba 2015).
export function smooth(points, weight) {
  if (!weight) return points;
  let [mean, share] = [0, 0];
  return points.map(([x, y]) => {
    mean = weight * mean + (1 - weight) * y;
    share = weight * share + (1 - weight);
    return [x, mean / share];
  });
}

// At most about `most` points that look the same: of each column the first, lowest, highest, last.
export function decimate(points, most) {
  if (points.length <= most) return points;
  const size = Math.ceil(points.length / (most / 4));
  const kept = [];
  for (let start = 0; start < points.length; start += size) {
    const end = Math.min(start + size, points.length);
    let [low, high] = [start, start];
    for (let i = start; i < end; i += 1) {
      if (points[i][1] < points[low][1]) low = i;
      if (points[i][1] > points[high][1]) high = i;
    }
    for (const i of [...new Set([start, low, high, end - 1])].sort((a, b) => a - b)) kept.push(points[i]);
  }
  return kept;
}

// The index of the point whose x is nearest; `points` are in the order of x.
export function nearest(points, x) {
  let [low, high] = [0, points.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < x) low = middle; else high = middle;
  }
  return Math.abs(points[low][0] - x) <= Math.abs(points[high][0] - x) ? low : high;
}
