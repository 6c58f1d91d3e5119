// Upload a data set, and start a run on one.

import { get, post, upload } from "./api.js";
import { h, notice, put, when } from "./dom.js";

// The settings that most runs choose; the others stand below, by section.
const USUAL = ["experiment.epochs", "experiment.learning_rate", "experiment.min_specificity",
  "experiment.early_stopping_patience", "system.batch_size", "data.image_size", "model.backbone", "model.weights"];

export async function startView(main) {
  const [{ datasets }, description, { last_event_id: since }] =
    await Promise.all([get("/datasets"), get("/openapi.json"), get("/runs?limit=1")]);
  const keys = description.components.schemas.ConfigOverrides.properties;
  const list = h("section", { class: "card" });
  const choice = h("select", { name: "dataset", id: "dataset" });
  const path = h("input", { name: "dataset_path", id: "dataset_path", placeholder: "data/images.zip" });
  const pathField = h("div", { class: "field" }, h("label", { for: "dataset_path" }, "Path on the server, below a folder given by --data"), path);
  choice.addEventListener("change", () => { pathField.hidden = choice.value !== ""; });

  function showDatasets(found, wanted) {
    put(list, h("h2", {}, "Data sets"), found.length ? h("div", { class: "table" }, h("table", { class: "stack" },
      h("thead", {}, h("tr", {}, ["Name", "Images", "Classes", "Patients", "Uploaded", "Notes"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, found.map(datasetRow)))) : h("p", { class: "soft" }, "None yet."));
    put(choice, ...found.map((one) => h("option", { value: one.dataset_id, selected: one.name === wanted }, one.name)),
      h("option", { value: "" }, "a path on the server"));
    pathField.hidden = choice.value !== "";
  }

  put(main, h("h1", {}, "New run"), h("div", { class: "grid" },
    h("div", {}, uploadForm(async (name) => showDatasets((await get("/datasets")).datasets, name)), list),
    startForm(keys, choice, pathField, path)));
  showDatasets(datasets);
  return { since, onEvent() {}, refresh() {} };
}

function datasetRow(one) {
  const { images, counts, patients, warnings = [] } = one.report ?? {};
  const report = h("a", { href: `/datasets/${encodeURIComponent(one.name)}/report`, target: "_blank" }, "report");
  const cells = [["name", h("span", {}, one.name, " ", report)], ["images", images ?? "–"],
    ["classes", counts ? Object.entries(counts).map(([name, n]) => `${n} ${name}`).join(", ") : "–"],
    ["patients", patients ?? "not named"], ["uploaded", when(one.created_at)],
    ["notes", warnings.join("; ")]];
  return h("tr", {}, cells.map(([label, text]) => h("td", { "data-label": label }, text instanceof Node ? text : String(text))));
}

function uploadForm(done) {
  const bar = h("progress", { max: 1, value: 0, hidden: true, "aria-label": "upload" });
  const said = h("pre", { hidden: true, role: "alert" });
  const file = h("input", { type: "file", id: "file", accept: ".zip", required: true, onchange: () => {
    if (!name.value && file.files[0])
      name.value = file.files[0].name.replace(/\.zip$/i, "").replace(/[^A-Za-z0-9._-]/g, "-").replace(/^[^A-Za-z0-9]+/, "").slice(0, 64);
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
      said.textContent = error.message;
      said.hidden = false;
    }
    bar.hidden = true;
    button.disabled = false;
  } },
  h("h2", {}, "Upload a data set"),
  h("p", { class: "soft small" }, "A ZIP with metadata.csv (filename, label, patient_id) and images/. It is checked on arrival."),
  h("div", { class: "field" }, h("label", { for: "file" }, "ZIP file"), file),
  h("div", { class: "field" }, h("label", { for: "name" }, "Name"), name),
  button, bar, said);
}

function startForm(keys, choice, pathField, path) {
  const said = h("pre", { hidden: true, role: "alert" });
  const inputs = Object.entries(keys).map(([key, rule]) => [key, rule, inputFor(key, rule)]);
  const field = ([key, rule, input]) => h("div", { class: "field" },
    h("label", { for: key }, key), input, h("span", { class: "soft small" }, rule.description));
  const sections = [...new Set(Object.keys(keys).map((key) => key.split(".")[0]))];
  const button = h("button", { class: "primary" }, "Start");
  const submit = async (event) => {
    event.preventDefault();
    const form = event.target;
    const wanted = { run_name: form.run_name.value, run_description: form.run_description.value };
    if (choice.value) wanted.dataset_id = Number(choice.value);
    else wanted.dataset_path = path.value;
    const changed = inputs.map(([key, rule, input]) => [key, valueOf(input, rule), rule])
      .filter(([, value, rule]) => JSON.stringify(value) !== JSON.stringify(rule.default));
    wanted.config_overrides = Object.fromEntries(changed.map(([key, value]) => [key, value]));
    button.disabled = true;
    said.hidden = true;
    form.querySelectorAll("[aria-invalid]").forEach((element) => element.removeAttribute("aria-invalid"));
    try {
      const answer = await post("/experiments/centralized", wanted);
      location.hash = `#/runs/${answer.run_id}`;
    } catch (error) {
      said.textContent = error.message;
      said.hidden = false;
      const wrong = document.getElementById((error.field ?? "").replace("config_overrides.", ""));
      if (wrong) {
        wrong.closest("details")?.setAttribute("open", "");
        wrong.setAttribute("aria-invalid", "true");
        wrong.focus();
      }
    }
    button.disabled = false;
  };
  return h("form", { class: "card", id: "start", onsubmit: submit },
    h("h2", {}, "Start a run"),
    h("div", { class: "field" }, h("label", { for: "run_name" }, "Name"), h("input", { id: "run_name", name: "run_name", required: true, maxlength: 200 })),
    h("div", { class: "field" }, h("label", { for: "run_description" }, "Note"), h("textarea", { id: "run_description", name: "run_description", rows: 2, maxlength: 10000 })),
    h("div", { class: "field" }, h("label", { for: "dataset" }, "Data set"), choice), pathField,
    inputs.filter(([key]) => USUAL.includes(key)).map(field),
    h("details", {}, h("summary", {}, "All settings"), sections.map((section) => h("fieldset", {}, h("legend", {}, section),
      inputs.filter(([key]) => key.startsWith(`${section}.`) && !USUAL.includes(key)).map(field)))),
    h("p", {}, button), said);
}

// A field that takes what the schema takes: the browser checks, and the server checks again.
function inputFor(key, rule) {
  const one = rule.anyOf ? rule.anyOf[0] : rule;
  const choices = rule.anyOf ? rule.anyOf[1].enum : rule.enum;
  const value = Array.isArray(rule.default) ? rule.default.join(", ") : String(rule.default);
  if (rule.enum || one.type === "boolean") {
    const options = [...(one.type === "boolean" ? ["true", "false"] : []), ...(choices ?? [])];
    return h("select", { id: key }, options.map((option) => h("option", { value: option, selected: option === value }, option)));
  }
  if (one.type === "object")
    return h("input", { id: key, placeholder: "Lung Opacity: 1, Normal: 0, *: drop", title: rule.description,
      pattern: "\\s*|[^,]+:\\s*(0|1|drop)\\s*(,[^,]+:\\s*(0|1|drop)\\s*)*" });
  if (choices || one.type === "array" || one.type === "string") {
    const input = h("input", { id: key, required: true, pattern: one.pattern?.slice(1, -1), title: rule.description });
    input.value = value;
    return input;
  }
  const input = h("input", { id: key, type: "number", required: true, step: one.type === "integer" ? 1 : "any", min: one.minimum ?? one.exclusiveMinimum, max: one.maximum });
  input.value = value;
  return input;
}

function valueOf(input, rule) {
  const one = rule.anyOf ? rule.anyOf[0] : rule;
  const text = input.value.trim();
  if ((rule.anyOf?.[1].enum ?? rule.enum ?? []).includes(text)) return text;
  if (one.type === "boolean") return text === "true";
  if (one.type === "object") return mapOf(text);
  if (one.type === "array") return text === "" ? [] : text.split(",").map(Number);
  return one.type === "string" ? text : Number(text);
}

// "Lung Opacity: 1, *: drop" as an object; the last colon of each part separates.
function mapOf(text) {
  return Object.fromEntries(text.split(",").filter((part) => part.includes(":")).map((part) => {
    const at = part.lastIndexOf(":"), value = part.slice(at + 1).trim();
    return [part.slice(0, at).trim(), value === "drop" ? value : Number(value)];
  }));
}
