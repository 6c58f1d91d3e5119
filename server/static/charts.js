// Small SVG charts. Plain functions of data; the page and the offline report use the same.

import { h, s } from "./dom.js";

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [480, 240, 46, 10, 10, 28];

// series: [{name, points: [[x, y], ...]}]; y that is null leaves a gap.
// options: label (of x), range ([low, high] of y), log (y), mark ({x, text}), show (y as text),
// fraction (x from 0 to 1), diagonal
export function lineChart(title, series, options = {}) {
  const { label = "epoch", log = false, mark, show = (y) => String(+y.toPrecision(3)) } = options;
  const drawn = series.map((one) => ({
    ...one,
    points: one.points.filter(([, y]) => y != null && (!log || y > 0)),
  }));
  const all = drawn.flatMap((one) => one.points);
  const caption = h("figcaption", {}, title);
  if (!all.length) return h("figure", { class: "chart" }, caption, h("p", { class: "soft" }, "Nothing yet."));
  const xs = options.fraction ? [0, 1] : extent(all.map(([x]) => x));
  const ys = options.range ?? extent(all.map(([, y]) => y));
  const across = scale(xs, LEFT, WIDTH - RIGHT, false);
  const up = scale(ys, HEIGHT - BOTTOM, TOP, log);
  const svg = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", tabindex: 0,
    "aria-label": `${title}: ${summary(drawn, show)}` });
  for (const y of log ? logTicks(ys) : ticks(ys, 4)) {
    svg.append(
      s("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: up(y), y2: up(y) }),
      s("text", { x: LEFT - 6, y: up(y) + 4, "text-anchor": "end" }, show(y)),
    );
  }
  for (const x of ticks(xs, 8).filter((x) => options.fraction || Number.isInteger(x)))
    svg.append(s("text", { x: across(x), y: HEIGHT - 12, "text-anchor": "middle" }, String(+x.toPrecision(3))));
  svg.append(s("text", { x: WIDTH - RIGHT, y: HEIGHT - 1, "text-anchor": "end" }, label));
  if (options.diagonal)
    svg.append(s("line", { class: "diagonal", x1: across(0), y1: up(0), x2: across(1), y2: up(1) }));
  if (mark && mark.x >= xs[0] && mark.x <= xs[1]) {
    const right = across(mark.x) > WIDTH * 0.7;
    svg.append(
      s("line", { class: "mark", x1: across(mark.x), x2: across(mark.x), y1: TOP, y2: HEIGHT - BOTTOM }),
      s("text", { x: across(mark.x) + (right ? -4 : 4), y: HEIGHT - BOTTOM - 4, "text-anchor": right ? "end" : "start" }, mark.text),
    );
  }
  drawn.forEach((one, i) => svg.append(
    s("path", { class: look(i), d: one.points.map(([x, y], n) => `${n ? "L" : "M"}${across(x).toFixed(1)} ${up(y).toFixed(1)}`).join("") }),
    one.points.length === 1 ? s("circle", { class: look(i), cx: across(one.points[0][0]), cy: up(one.points[0][1]), r: 2.5 }) : null,
  ));
  if (options.fraction) return h("figure", { class: "chart" }, caption, svg);
  const legend = legendOf(drawn);
  follow(svg, drawn, across, show, legend, label);
  return h("figure", { class: "chart" }, caption, svg, legend);
}

// The receiver operating characteristic or precision over recall: both axes from 0 to 1.
export function curveChart(title, points, label) {
  const options = { label, range: [0, 1], fraction: true, diagonal: title.startsWith("ROC") };
  return lineChart(title, [{ name: title, points }], options);
}

// counts: {tp, fp, tn, fn}
export function confusionMatrix(counts, negative, positive) {
  const cell = (count, right) => h("td", { class: right ? "right" : "wrong" }, String(count));
  return h("table", { class: "confusion" },
    h("thead", {}, h("tr", {}, h("th", {}, "image is"), h("th", {}, `called ${negative}`), h("th", {}, `called ${positive}`))),
    h("tbody", {},
      h("tr", {}, h("th", { scope: "row" }, negative), cell(counts.tn, true), cell(counts.fp, false)),
      h("tr", {}, h("th", { scope: "row" }, positive), cell(counts.fn, false), cell(counts.tp, true))));
}

const look = (i) => `series s${i % 8}${i >= 8 ? " dashed" : ""}`;

function legendOf(series) {
  return h("ul", { class: "legend" }, series.map((one, i) => h("li", {},
    s("svg", { viewBox: "0 0 20 8", "aria-hidden": "true" }, s("path", { class: look(i), d: "M0 4H20" })),
    `${one.name} `, h("output", {}))));
}

// A cursor under the pointer, or moved by the arrow keys; the values stand in the legend.
function follow(svg, series, across, show, legend, label) {
  const cursor = s("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  svg.append(cursor);
  const outputs = [...legend.querySelectorAll("output")];
  const places = [...new Set(series.flatMap((one) => one.points.map(([x]) => x)))].sort((a, b) => a - b);
  let at = places.length - 1;
  const point = (index) => {
    at = Math.max(0, Math.min(places.length - 1, index));
    const x = places[at];
    cursor.setAttribute("x1", across(x));
    cursor.setAttribute("x2", across(x));
    cursor.setAttribute("visibility", "visible");
    series.forEach((one, i) => {
      const found = one.points.find(([place]) => place === x);
      outputs[i].textContent = found ? `${show(found[1])} (${label} ${x})` : "";
    });
  };
  const leave = () => {
    cursor.setAttribute("visibility", "hidden");
    series.forEach((one, i) => { const last = one.points.at(-1); outputs[i].textContent = last ? show(last[1]) : ""; });
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * WIDTH;
    const nearest = places.reduce((best, place, i) => (Math.abs(across(place) - x) < Math.abs(across(places[best]) - x) ? i : best), 0);
    point(nearest);
  });
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) { event.preventDefault(); point(at + step); }
  });
  leave();
}

function extent(values) {
  const [low, high] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
  return low === high ? [low - (Math.abs(low) || 1) * 0.1, high + (Math.abs(high) || 1) * 0.1] : [low, high];
}

function scale([low, high], from, to, log) {
  const f = log ? Math.log10 : (x) => x;
  return (value) => from + ((f(value) - f(low)) / (f(high) - f(low) || 1)) * (to - from);
}

function ticks([low, high], count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
}

function logTicks([low, high]) {
  const powers = [];
  for (let p = Math.ceil(Math.log10(low) - 1e-9); p <= Math.log10(high) + 1e-9; p += 1) powers.push(10 ** p);
  return powers.length > 1 ? powers : [low, high];
}

function summary(series, show) {
  return series.filter((one) => one.points.length)
    .map((one) => `${one.name} ${show(one.points.at(-1)[1])}`).join(", ");
}
