// Line charts in SVG, drawn at the size they have on screen, so that 12 px of text are 12 px.

import { h, later, put, s, save, say } from "./dom.js";
import { exportCsv, exportPng, exportSvg, fileName } from "./export.js";
import { decimate, extent, logTicks, nearest, scale, smooth, ticks } from "./scale.js";

const [HEIGHT, TOP, BOTTOM, LETTER, MOST] = [250, 12, 38, 6.7, 1000];
const COLOURS = 8; // series that have a colour of their own

// One chart a frame: the page answers between them, however many epochs there are.
const waiting = new Set();

function drawNext() {
  const [chart] = waiting;
  waiting.delete(chart);
  if (waiting.size) requestAnimationFrame(drawNext);
  chart.draw();
}

// Charts of one x axis: they share cursor, zoom and smoothing.
export class ChartGroup {
  constructor(label = "epoch") {
    Object.assign(this, { charts: new Set(), label, weight: 0, zoomed: null, at: null });
  }

  set(changes) {
    Object.assign(this, changes);
    for (const chart of this.charts) chart.schedule();
  }

  point(x) {
    this.at = x;
    for (const chart of this.charts) chart.drawCursor();
  }
}

// options: group, label (of x), range ([low, high] of y), log (y; can be switched), step (a value
// holds until the next), show (y as text), fraction (both axes from 0 to 1), diagonal, unit
export class LineChart {
  constructor(title, options = {}) {
    Object.assign(this, { title, options, series: [], hidden: new Set(), log: !!options.log, size: 0, marks: [], dots: [] });
    this.group = options.group ?? new ChartGroup(options.label);
    this.group.charts.add(this);
    this.show = options.show ?? ((y) => String(+y.toPrecision(3)));
    this.plot = s("g");
    this.cursor = s("line", { class: "cursor", visibility: "hidden" });
    this.box = s("rect", { class: "zoom", visibility: "hidden" });
    this.svg = s("svg", { role: "img", tabindex: 0, height: HEIGHT }, this.plot, this.cursor, this.box);
    this.legend = h("ul", { class: "legend" });
    this.place = h("output", { class: "soft small place" });
    this.reset = h("button", { type: "button", class: "plain", hidden: true, onclick: () => this.group.set({ zoomed: null }) }, "Reset zoom");
    const tool = (text, work, attributes = {}) => h("button", { type: "button", class: "plain", onclick: work, ...attributes }, text);
    const logs = options.mayLog && tool("log", () => { this.log = !this.log; logs.setAttribute("aria-pressed", this.log); this.draw(); }, { "aria-pressed": String(this.log), title: "logarithmic scale" });
    this.element = h("figure", { class: "chart" },
      h("figcaption", {}, h("span", {}, title), this.place, h("span", { class: "tools" }, this.reset, logs,
        h("details", { class: "menu" }, h("summary", { "aria-label": `save the chart ${title}` }, "Save"), h("div", {},
          tool("SVG", () => exportSvg(this)), tool("PNG", () => exportPng(this)),
          tool("CSV", () => save(`${fileName(title)}.csv`, exportCsv(this.group.label, this.series), "text/csv")))))),
      this.svg, this.legend);
    this.listen();
    new ResizeObserver(([entry]) => {
      const width = Math.round(entry.contentRect.width);
      if (width && width !== this.size) { this.size = width; this.draw(); }
    }).observe(this.element);
  }

  // series: [{name, points: [[x, y], ...]}] in the order of x; y that is null leaves a gap.
  // marks: [{x, text}]; dots: [{x, y, text}]
  update(series, { marks = [], dots = [] } = {}) {
    const names = series.map((one) => one.name).join("\n");
    this.series = series.map((one) => ({ ...one, points: one.points.filter(([x, y]) => x != null && y != null && Number.isFinite(y)) }));
    Object.assign(this, { marks, dots });
    if (names !== this.names) this.makeLegend();
    this.names = names;
    this.schedule();
    return this;
  }

  schedule() {
    if (!waiting.size) requestAnimationFrame(drawNext);
    waiting.add(this);
  }

  makeLegend() {
    this.legend.hidden = !!this.options.fraction;
    if (this.options.fraction) return;
    this.outputs = this.series.map(() => h("output", {}));
    put(this.legend, this.series.map((one, i) => h("li", {}, h("button", { type: "button", class: "plain", "aria-pressed": String(!this.hidden.has(one.name)),
      title: "show or hide", onclick: (event) => {
        this.hidden.has(one.name) ? this.hidden.delete(one.name) : this.hidden.add(one.name);
        event.currentTarget.setAttribute("aria-pressed", !this.hidden.has(one.name));
        this.draw();
      } },
    s("svg", { viewBox: "0 0 20 8", "aria-hidden": "true" }, s("path", { ...look(i), d: "M0 4H20" })), one.name), this.outputs[i])));
  }

  draw() {
    const width = this.size || Math.round(this.element.clientWidth);
    if (!width) return;
    const { options, group } = this;
    const visible = this.series.map((one, i) => ({ ...one, i })).filter((one) => !this.hidden.has(one.name) && one.points.length);
    this.shown = visible.map((one) => {
      const inside = group.zoomed && !options.fraction ? one.points.filter(([x]) => x >= group.zoomed[0] && x <= group.zoomed[1]) : one.points;
      return { ...one, points: this.log ? inside.filter(([, y]) => y > 0) : inside };
    }).filter((one) => one.points.length);
    const all = this.shown.flatMap((one) => one.points);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.svg.setAttribute("width", width);
    this.reset.hidden = !group.zoomed || !!options.fraction;
    this.svg.setAttribute("aria-label", summary(this.title, this.shown, this.show));
    if (!all.length) {
      put(this.plot, s("text", { x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "Nothing yet."));
      this.across = null;
      this.drawCursor();
      return;
    }
    const xs = options.fraction ? [0, 1] : group.zoomed ?? extent(all.map(([x]) => x));
    const ys = !this.log && options.range && !group.zoomed ? options.range : extent(all.map(([, y]) => y));
    const levels = this.log ? logTicks(ys) : ticks(ys, 4);
    const left = Math.max(...levels.map((y) => this.show(y).length)) * LETTER + 12;
    const ends = !options.fraction && width > 420 && this.shown.length <= 8;
    const right = ends ? Math.min(Math.max(...this.shown.map((one) => one.name.length)) * LETTER + 12, width * 0.3) : 14;
    Object.assign(this, { left, right: width - right, xs });
    this.across = scale(xs, left, width - right, false);
    this.up = scale(ys, HEIGHT - BOTTOM, TOP, this.log);
    put(this.plot, levels.map((y) => [
      s("line", { class: "axis", x1: left, x2: width - right, y1: this.up(y), y2: this.up(y) }),
      s("text", { x: left - 6, y: this.up(y) + 4, "text-anchor": "end" }, this.show(y))]),
    this.drawX(width, right), this.drawMarks(), this.shown.map((one) => this.drawLine(one)), ends ? this.drawEnds(width, right) : null,
    this.dots.map((dot) => [s("circle", { class: "dot", cx: this.across(dot.x), cy: this.up(dot.y), r: dot.big ? 6 : 4 }, s("title", {}, dot.text))]));
    this.drawCursor();
  }

  drawX(width, right) {
    const room = (width - right - this.left) / 56;
    const whole = !this.options.fraction && this.group.label === "epoch";
    return [ticks(this.xs, Math.max(2, Math.min(8, room))).filter((x) => !whole || Number.isInteger(x)).map((x) => {
      const at = this.across(x);
      return s("text", { x: Math.min(at, width - 16), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, String(+x.toPrecision(4)));
    }), s("text", { x: (this.left + width - right) / 2, y: HEIGHT - 5, "text-anchor": "middle" }, this.options.label ?? this.group.label),
    this.options.diagonal ? s("line", { class: "diagonal", x1: this.across(0), y1: this.up(0), x2: this.across(1), y2: this.up(1) }) : null];
  }

  drawMarks() {
    return this.marks.filter((mark) => mark.x >= this.xs[0] && mark.x <= this.xs[1]).map((mark) => {
      const at = this.across(mark.x);
      const turned = at > this.left + (this.right - this.left) * 0.7;
      return [s("line", { class: "mark", x1: at, x2: at, y1: TOP, y2: HEIGHT - BOTTOM }),
        s("text", { x: at + (turned ? -4 : 4), y: HEIGHT - BOTTOM - 5, "text-anchor": turned ? "end" : "start" }, mark.text)];
    });
  }

  drawLine(one) {
    const line = (points, kind) => {
      const few = decimate(points, MOST);
      const text = few.map(([x, y], n) => {
        const [a, b] = [this.across(x).toFixed(1), this.up(y).toFixed(1)];
        return !n ? `M${a} ${b}` : this.options.step ? `H${a}V${b}` : `L${a} ${b}`;
      }).join("");
      const { class: colour, ...dashes } = look(one.i);
      return [s("path", { class: `${colour} ${kind}`, ...dashes, d: text }),
        few.length === 1 ? s("circle", { class: colour, cx: this.across(few[0][0]), cy: this.up(few[0][1]), r: 2.5 }) : null];
    };
    const weight = this.options.fraction || this.options.step ? 0 : this.group.weight;
    return weight ? [line(one.points, "raw"), line(smooth(one.points, weight), "")] : line(one.points, "");
  }

  drawEnds(width, right) {
    const weight = this.options.step ? 0 : this.group.weight;
    const ends = this.shown.map((one) => ({ name: one.name, y: this.up(smooth(one.points, weight).at(-1)[1]) })).sort((a, b) => a.y - b.y);
    ends.forEach((end, n) => { if (n) end.y = Math.max(end.y, ends[n - 1].y + 13); });
    for (let n = ends.length - 1; n >= 0; n -= 1) ends[n].y = Math.min(ends[n].y, HEIGHT - BOTTOM - 13 * (ends.length - 1 - n));
    const letters = Math.floor((right - 10) / LETTER);
    return ends.map((end) => s("text", { class: "end", x: width - right + 6, y: end.y + 4 }, end.name.length > letters ? `${end.name.slice(0, letters - 1)}…` : end.name));
  }

  // The cursor of the whole group; the values stand in the legend, which keeps its height.
  drawCursor() {
    if (this.options.fraction) return;
    const at = this.group.at;
    const seen = this.across && at != null && at >= this.xs[0] && at <= this.xs[1];
    this.cursor.setAttribute("visibility", seen ? "visible" : "hidden");
    if (seen) for (const [name, value] of [["x1", this.across(at)], ["x2", this.across(at)], ["y1", TOP], ["y2", HEIGHT - BOTTOM]]) this.cursor.setAttribute(name, value);
    say(this.place, seen ? `${this.group.label} ${+at.toPrecision(4)}` : "");
    this.series.forEach((one, i) => {
      if (!this.outputs?.[i]) return;
      const point = one.points.length ? (seen ? one.points[nearest(one.points, at)] : one.points.at(-1)) : null;
      say(this.outputs[i], point ? this.show(point[1]) : "–");
    });
  }

  listen() {
    const { svg, group } = this;
    const places = () => this.shown?.reduce((best, one) => (one.points.length > best.length ? one.points : best), []) ?? [];
    const x = (event) => {
      const place = Math.max(this.left, Math.min(this.right, event.clientX - svg.getBoundingClientRect().left));
      return this.xs[0] + ((place - this.left) / (this.right - this.left)) * (this.xs[1] - this.xs[0]);
    };
    let from = null;
    const snap = (value) => { const points = places(); return points.length ? points[nearest(points, value)][0] : null; };
    svg.addEventListener("pointerdown", (event) => {
      if (!this.across || this.options.fraction || event.pointerType === "touch") return;
      from = event.clientX;
      svg.setPointerCapture(event.pointerId);
    });
    svg.addEventListener("pointermove", (event) => {
      if (!this.across || this.options.fraction) return;
      group.point(snap(x(event)));
      if (from == null || Math.abs(event.clientX - from) < 5) return;
      const [a, b] = [from, event.clientX].map((place) => Math.max(this.left, Math.min(this.right, place - svg.getBoundingClientRect().left))).sort((one, other) => one - other);
      for (const [name, value] of [["x", a], ["width", b - a], ["y", TOP], ["height", HEIGHT - BOTTOM - TOP], ["visibility", "visible"]]) this.box.setAttribute(name, value);
    });
    svg.addEventListener("pointerup", (event) => {
      this.box.setAttribute("visibility", "hidden");
      if (from != null && Math.abs(event.clientX - from) >= 5) {
        const [a, b] = [x({ clientX: from }), x(event)].sort((one, other) => one - other);
        if (places().filter(([at]) => at >= a && at <= b).length > 1) group.set({ zoomed: [a, b] });
      }
      from = null;
    });
    svg.addEventListener("dblclick", () => group.set({ zoomed: null }));
    svg.addEventListener("pointerleave", () => { if (from == null) group.point(null); });
    svg.addEventListener("blur", () => group.point(null));
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      const points = places();
      if (event.key === "Escape") group.set({ zoomed: null });
      if (!step || this.options.fraction || !points.length) return;
      event.preventDefault();
      const now = group.at == null ? (step > 0 ? -1 : points.length) : nearest(points, group.at);
      group.point(points[Math.max(0, Math.min(points.length - 1, now + step))][0]);
    });
  }
}

// Smoothing and the x axis of a group's charts. `axes`: [[value, name], ...]; `onAxis` gets a value.
export function chartTools(group, axes, onAxis) {
  const value = h("output", {}, "0");
  const push = later(30, () => group.set({ weight: Number(slider.value) }));
  const slider = h("input", { type: "range", min: 0, max: 0.95, step: 0.05, value: 0, name: "smoothing", oninput: () => { value.textContent = slider.value; push(); } });
  return h("div", { class: "bar tools" }, h("label", { class: "inline" }, "Smoothing ", slider, " ", value),
    h("label", { class: "inline" }, "x axis ", h("select", { name: "axis", onchange: (event) => onAxis(event.target.value) }, axes.map(([key, name]) => h("option", { value: key }, name)))),
    h("span", { class: "soft small hint" }, "Drag to zoom, double click to reset."));
}

// counts: {tp, fp, tn, fn}
export function confusionMatrix(counts, negative, positive) {
  const cell = (count, right) => h("td", { class: right ? "right" : "wrong" }, String(count));
  return h("table", { class: "confusion" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "image is"), h("th", { scope: "col" }, `called ${negative}`), h("th", { scope: "col" }, `called ${positive}`))),
    h("tbody", {},
      h("tr", {}, h("th", { scope: "row" }, negative), cell(counts.tn, true), cell(counts.fp, false)),
      h("tr", {}, h("th", { scope: "row" }, positive), cell(counts.fn, false), cell(counts.tp, true))));
}

// Eight colours, then the same ones with dashes, then with others: no two series look the same.
function look(i) {
  const turn = Math.floor(i / COLOURS);
  return { class: `series s${i % COLOURS}`, "stroke-dasharray": turn ? `${[7, 3, 11, 2][(turn - 1) % 4]} ${3 + 2 * Math.floor((turn - 1) / 4)}` : null };
}

function summary(title, series, show) {
  const last = series.map((one) => `${one.name} ${show(one.points.at(-1)[1])}`);
  return last.length && series.length > 1 ? `${title}: last values ${last.join(", ")}` : title;
}
