// Images scored by a run's model: drop one or many, see score, decision, warnings and heat map.

import { get, Refused, toLogin } from "./api.js";
import { h, percent, put } from "./dom.js";

const AT_ONCE = 4; // images sent together: the server scores those in one batch
const HEAT = 60; // per cent of the map's strength, at first

// The way there from the run's own view; null for a run without a model.
export const predictLink = (run) =>
  run.artifacts.some((file) => file.name === "checkpoint") ? h("a", { class: "button", href: `#/runs/${run.run_id}/predict` }, "Predict") : null;

export async function predictView(main, id) {
  const run = await get(`/runs/${id}`);
  const results = []; // {name, answer or error, card}
  let points = null; // operating point -> threshold, once an answer has named them
  let chosen = null;

  const list = h("ul", { class: "predictions", "aria-label": "Results" });
  const state = h("p", { role: "status" });
  const point = h("select", { id: "point", onchange: (event) => { chosen = event.target.value; results.forEach(decide); } });
  const rule = h("div", { class: "field", hidden: true }, h("label", { for: "point" }, "Operating point"), point);
  const heat = h("input", { type: "range", id: "heat", min: 0, max: 100, value: HEAT, oninput: () => results.forEach(shade) });
  const slider = h("div", { class: "field", hidden: true }, h("label", { for: "heat" }, "Heat map"), heat);
  const input = h("input", { type: "file", id: "files", multiple: true, onchange: () => { add([...input.files]); input.value = ""; } });
  const drop = h("div", { class: "card drop" },
    h("label", { for: "files" }, "Drop images here (JPEG, PNG, DICOM, ...), or choose them:"), input);
  for (const kind of ["dragover", "dragleave", "drop"])
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop") add([...event.dataTransfer.files]);
    });
  put(main,
    h("h1", {}, "Predict", h("span", { class: "soft" }, ` with ${run.run_name}, run ${id}`)),
    h("p", {}, h("a", { href: `#/runs/${id}` }, "Back to the run"),
      h("span", { class: "soft" }, " · For research. Not a medical device. The images are not kept.")),
    drop, h("div", { class: "bar" }, rule, slider), state, list);

  const waiting = [];
  let sending = 0;

  function add(files) {
    for (const file of files) {
      const one = { name: file.name, file, card: h("li", { class: "card" }, h("b", {}, file.name), h("p", { class: "soft" }, "waits")) };
      results.push(one);
      waiting.push(one);
      list.append(one.card);
    }
    while (sending < AT_ONCE && waiting.length) next();
    count();
  }

  async function next() {
    const one = waiting.shift();
    if (!one) return;
    sending += 1;
    try {
      one.answer = await send(one.file);
      if (!points) offer(one.answer);
    } catch (error) {
      one.error = error.message;
    }
    one.file = null;
    draw(one);
    sending -= 1;
    count();
    next();
  }

  async function send(file) {
    const query = new URLSearchParams({ heatmap: "true", name: file.name.slice(-200) });
    const response = await fetch(`/runs/${id}/predict?${query}`, { method: "POST", body: file, headers: { "content-type": "application/octet-stream" } });
    if (response.status === 401) toLogin();
    const body = await response.json().catch(() => ({}));
    if (!response.ok) throw new Refused(response.status, body);
    return body;
  }

  function offer(answer) {
    points = answer.operating_points;
    chosen = answer.operating_point;
    put(point, Object.entries(points).map(([name, threshold]) => h("option", { value: name, selected: name === chosen }, `${name} (threshold ${threshold.toFixed(3)})`)));
    rule.hidden = slider.hidden = false;
  }

  function draw(one) {
    if (one.error) {
      put(one.card, h("b", {}, one.name), h("p", { class: "wrong" }, one.error));
      one.card.classList.add("error");
      return;
    }
    const { answer } = one;
    one.heat = h("img", { class: "heat", alt: "", src: answer.heatmap });
    one.decision = h("b", { class: "decision" });
    put(one.card,
      h("div", { class: "pictures" }, h("img", { alt: `${one.name}, as the model sees it`, src: answer.image }), one.heat),
      one.decision, h("div", {}, `score ${answer.score.toFixed(3)}`), h("div", { class: "soft small" }, one.name),
      answer.warnings.map((text) => h("p", { class: "small warn" }, text)));
    decide(one);
    shade(one);
  }

  function decide(one) {
    if (one.answer) one.decision.textContent = one.answer.label_names[one.answer.score >= points[chosen] ? 1 : 0];
    count();
  }

  function shade(one) {
    if (one.heat) one.heat.style.opacity = heat.value / 100;
  }

  function count() {
    const scored = results.filter((one) => one.answer);
    const failed = results.filter((one) => one.error).length;
    const positive = scored.filter((one) => one.answer.score >= points[chosen]).length;
    const parts = [];
    if (scored.length) parts.push(`${scored.length} scored, ${positive} (${percent(positive / scored.length)}) called ${scored[0].answer.label_names[1]}`);
    if (failed) parts.push(`${failed} could not be scored`);
    if (results.length - scored.length - failed) parts.push(`${results.length - scored.length - failed} to do`);
    state.textContent = parts.join("; ");
  }

  return { since: run.last_event_id, onEvent() {}, refresh() {} };
}
