// Upload a data set, and start a run on one.

import { get, mayChange, post, request, upload } from "./api.js";
import { ago, duration, flat, h, later, notice, put } from "./dom.js";
import { fieldFor, isRight, say, valueOf } from "./fields.js";

// The settings that most runs choose, with names for people; the others stand below, by section.
const USUAL = { "experiment.epochs": "Epochs at most", "experiment.learning_rate": "Learning rate", "experiment.min_specificity": "Lowest specificity of a kept epoch",
  "experiment.early_stopping_patience": "Epochs without improvement before it stops", "system.batch_size": "Images in a batch", "data.image_size": "Image size (pixels)", "model.backbone": "Network", "model.weights": "First weights" };
const SECTIONS = { system: "How the work is done", model: "The network", data: "The images", experiment: "The training", recipe: "The recipe", output: "Output" };
const PRESETS = {
  "Quick look": { "experiment.epochs": 5, "data.image_size": 64, "model.backbone": "resnet18", "model.weights": "none", "experiment.learning_rate": 0.001 },
  "CPU": { "experiment.epochs": 12, "data.image_size": 128, "model.backbone": "resnet18" },
  "One GPU": { "data.image_size": 224, "model.backbone": "resnet50", "system.batch_size": 64 },
  "Best quality": { "experiment.epochs": 60, "data.image_size": 320, "model.backbone": "resnet50", "experiment.early_stopping_patience": 12 },
};

export async function startView(main, query) {
  const from = query.get("from");
  const [{ datasets }, description, { last_event_id: since }, before, full] = await Promise.all([get("/datasets"), get("/openapi.json"), get("/runs?limit=1"),
    from ? get(`/runs/${from}`) : null, mayChange]);
  const keys = description.components.schemas.ConfigOverrides.properties;
  const list = h("section", { class: "card" });
  const choice = h("select", { name: "dataset", id: "dataset" });
  const path = h("input", { name: "dataset_path", id: "dataset_path", placeholder: "data/images.zip", "aria-describedby": "dataset_path-error" });
  const pathField = h("div", { class: "field" }, h("label", { for: "dataset_path" }, "Path on the server, below a folder given by --data"), path, h("p", { id: "dataset_path-error", class: "wrong", hidden: true }));
  choice.addEventListener("change", () => { pathField.hidden = choice.value !== ""; });

  function showDatasets(found, wanted) {
    put(list, h("h2", {}, "Data sets"), found.length ? h("div", { class: "table" }, h("table", { class: "stack" },
      h("thead", {}, h("tr", {}, ["Name", "Images", "Classes", "Patients", "Uploaded", "Notes", ""].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, found.map((one) => datasetRow(one, full, reload))))) : h("p", { class: "soft" }, "None yet."));
    put(choice, ...found.map((one) => h("option", { value: one.dataset_id, selected: one.name === wanted || one.path === wanted }, one.name)), h("option", { value: "" }, "a path on the server"));
    pathField.hidden = choice.value !== "";
  }
  const reload = async (name) => showDatasets((await get("/datasets")).datasets, name);

  put(main, h("h1", {}, before ? `New run, from run ${before.run_id}` : "New run"), full ? null : h("p", { class: "banner" }, "Your token allows reading only."),
    h("div", { class: "grid" }, h("div", {}, uploadForm(reload), list), startForm(keys, choice, pathField, path, before)));
  showDatasets(datasets, before?.dataset_path);
  if (before?.dataset_path && !datasets.some((one) => one.path === before.dataset_path)) {
    choice.value = "";
    pathField.hidden = false;
    path.value = before.dataset_path;
  }
  return { since, onEvent() {}, refresh() {} };
}

function datasetRow(one, full, done) {
  const { images, counts, patients, warnings = [] } = one.report ?? {};
  const remove = h("button", { type: "button", class: "danger", "aria-label": `Delete the data set ${one.name}`, onclick: async () => {
    if (!confirm(`Delete the data set ${one.name} and its uploaded file? Runs keep their results; they cannot be resumed without it.`)) return;
    try { await request("DELETE", `/datasets/${encodeURIComponent(one.name)}`); await done(); } catch (error) { notice(error.message); }
  } }, "Delete");
  const text = (item) => (typeof item === "string" ? item : item.message ?? JSON.stringify(item));
  const notes = warnings.length > 1 ? h("details", {}, h("summary", {}, `${warnings.length} notes`), h("ul", {}, warnings.map((item) => h("li", {}, text(item))))) : warnings.map(text).join("");
  const report = h("a", { href: `/datasets/${encodeURIComponent(one.name)}/report`, target: "_blank" }, "report");
  const cells = [["name", h("span", {}, one.name, " ", report)], ["images", images ?? "–"], ["classes", counts ? Object.entries(counts).map(([name, n]) => `${typeof n === "object" ? JSON.stringify(n) : n} ${name}`).join(", ") : "–"],
    ["patients", patients == null ? "not named" : typeof patients === "object" ? JSON.stringify(patients) : patients], ["uploaded", ago(one.created_at)], ["notes", notes], ["", full ? remove : ""]];
  return h("tr", {}, cells.map(([label, content]) => h("td", { "data-label": label }, content instanceof Node ? content : String(content))));
}

function uploadForm(done) {
  const bar = h("progress", { max: 1, value: 0, hidden: true, "aria-label": "upload" });
  const said = h("pre", { hidden: true, role: "alert" });
  const file = h("input", { type: "file", id: "file", accept: ".zip", required: true, onchange: () => {
    if (!name.value && file.files[0]) name.value = file.files[0].name.replace(/\.zip$/i, "").replace(/[^A-Za-z0-9._-]/g, "-").replace(/^[^A-Za-z0-9]+/, "").slice(0, 64);
  } });
  const name = h("input", { id: "name", required: true, maxlength: 64, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*", title: "letters, digits, dots, dashes and underscores" });
  const button = h("button", { class: "primary" }, "Upload");
  return h("form", { class: "card", id: "upload", onsubmit: async (event) => {
    event.preventDefault();
    button.disabled = true;
    said.hidden = true;
    bar.hidden = false;
    try {
      const one = await upload(name.value, file.files[0], (sent, all) => { bar.value = sent / all; });
      notice(`${one.name}: ${one.report.images} images.`);
      await done(one.name);
      event.target.reset();
    } catch (error) {
      said.textContent = [error.message, ...(error.problems ?? []).filter((one) => typeof one === "string" && !error.message.includes(one))].join("\n");
      said.hidden = false;
    }
    bar.hidden = true;
    button.disabled = false;
  } },
  h("h2", {}, "Upload a data set"), h("p", { class: "soft small" }, "A ZIP with metadata.csv (filename, label, patient_id) and images/. It is checked on arrival."),
  h("div", { class: "field" }, h("label", { for: "file" }, "ZIP file"), file), h("div", { class: "field" }, h("label", { for: "name" }, "Name"), name), button, bar, said);
}

function startForm(keys, choice, pathField, path, before) {
  const stored = flat(before?.config);
  const fields = new Map(Object.entries(keys).map(([key, rule]) => [key, fieldFor(key, rule, USUAL[key], stored[key])]));
  const sections = [...new Set(Object.keys(keys).map((key) => key.split(".")[0]))];
  const button = h("button", { class: "primary" }, "Start");
  const said = h("p", { id: "start-said", class: "wrong", role: "alert", hidden: true });
  const estimate = h("p", { class: "soft small", role: "status" });
  const text = (id, label, element) => h("div", { class: "field" }, h("label", { for: id }, label), element, h("p", { id: `${id}-error`, class: "wrong", hidden: true }));
  const name = h("input", { id: "run_name", name: "run_name", required: true, maxlength: 200, value: before ? `${before.run_name} again`.slice(0, 200) : "", "aria-describedby": "run_name-error" });
  const note = h("textarea", { id: "run_description", name: "run_description", rows: 2, maxlength: 10000 });
  const wanted = () => ({ run_name: name.value, run_description: note.value, ...(choice.value ? { dataset_id: Number(choice.value) } : { dataset_path: path.value }),
    config_overrides: Object.fromEntries([...fields].map(([key, field]) => [key, valueOf(field)]).filter(([key, value]) => JSON.stringify(value) !== JSON.stringify(keys[key].default))) });

  const guess = later(400, async () => {
    if (![...fields.values()].every(isRight) || (!choice.value && !path.value)) { put(estimate); return; }
    try {
      const { estimated_duration: seconds } = await post("/estimate", { ...wanted(), run_name: "estimate" });
      put(estimate, seconds == null ? "How long it takes is known after the first epoch: no earlier run here is like it." : `About ${duration(seconds)} for all epochs, judged by earlier runs like it.`);
    } catch { put(estimate); }
  });

  // Every wrong field is named at once, in place, and the first one is focused.
  function complain(wrong) {
    for (const element of [name, path, ...[...fields.values()].map((field) => field.input)]) say(element, "");
    const first = wrong.map(([element, message]) => { element.closest("details")?.setAttribute("open", ""); say(element, message); return element; })[0];
    first?.focus();
    first?.scrollIntoView({ block: "center" });
  }

  async function submit(event) {
    event.preventDefault();
    said.hidden = true;
    const wrong = [name, ...[...fields.values()].map((field) => field.input)].filter((input) => !input.checkValidity()).map((input) => [input, input.validationMessage]);
    if (!choice.value && !path.value) wrong.push([path, "name a data set"]);
    complain(wrong);
    if (wrong.length) { show(`${wrong.length} ${wrong.length === 1 ? "field needs" : "fields need"} a change.`); return; }
    button.disabled = true;
    try {
      const answer = await post("/experiments/centralized", wanted());
      location.hash = `#/runs/${answer.run_id}`;
    } catch (error) {
      show(error.message);
      complain((error.errors ?? [error]).map((one) => [document.getElementById((one.field ?? "").replace("config_overrides.", "")), one.detail ?? one.message]).filter(([element]) => element));
    }
    button.disabled = false;
  }
  const show = (message) => { said.textContent = message; said.hidden = false; };

  const preset = (values) => h("button", { type: "button", onclick: () => {
    for (const [key, field] of fields) field.set(values[key] ?? keys[key].default);
    guess();
  } });
  const presets = Object.entries(PRESETS).map(([label, values]) => { const one = preset(values); one.textContent = label; return one; });
  const form = h("form", { class: "card", id: "start", novalidate: true, onsubmit: submit, oninput: guess, onchange: guess },
    h("h2", {}, "Start a run"), said, text("run_name", "Name", name), text("run_description", "Note", note),
    h("div", { class: "field" }, h("label", { for: "dataset" }, "Data set"), choice), pathField,
    h("div", { class: "field", role: "group", "aria-label": "presets" }, h("span", {}, "Begin with "), presets),
    Object.keys(USUAL).filter((key) => fields.has(key)).map((key) => fields.get(key).element),
    h("details", {}, h("summary", {}, "All settings"), sections.map((section) => h("fieldset", {}, h("legend", {}, SECTIONS[section] ?? section),
      [...fields].filter(([key]) => key.startsWith(`${section}.`) && !(key in USUAL)).map(([, field]) => field.element)))),
    estimate, h("p", {}, button));
  guess();
  return form;
}
