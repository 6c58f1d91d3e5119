// The columns of the list of runs, and the menu that chooses among them.

import { get } from "./api.js";
import { ago, duration, h, percent, plain, put, shown } from "./dom.js";
import { long, meaning, short } from "./glossary.js";

const SHARES = ["val_recall", "val_specificity", "val_precision", "val_f1", "val_accuracy", "val_recall_at_specificity"];
const figure = (key, text) => [key, { name: short(key), title: [long(key), meaning(key)].filter(Boolean).join(": "), number: true, sort: key, text: (run) => text(run[key]) }];

// key -> {name, title?, number?, sort, text(run) or node(run)}
const COLUMNS = Object.fromEntries([
  ["epoch", { name: "Epoch", number: true, sort: "best_epoch", title: "the kept epoch, or how far the run is",
    text: (run) => (run.status === "in_progress" ? `${run.progress?.epoch ?? run.epoch ?? "–"} of ${run.epochs}` : run.best_epoch ? `${run.best_epoch} of ${run.total_epochs_run ?? run.epochs ?? "–"}` : `${run.epoch ?? "–"}`) }],
  ...SHARES.map((key) => figure(key, percent)),
  figure("val_auroc", (value) => (value == null ? "–" : value.toFixed(3))),
  ...["val_loss", "train_loss", "learning_rate"].map((key) => figure(key, plain)),
  ["created_at", { name: "Created", sort: "run_id", node: (run) => ago(run.created_at) }],
  ["training_time", { name: "Time", sort: "training_time", text: (run) => duration(run.training_time) }],
  ["tags", { name: "Tags", text: (run) => run.tags.join(", ") }],
  ["dataset_path", { name: "Data set", sort: "dataset_path", text: (run) => run.dataset_path?.split("/").at(-1) ?? "–" }],
  ["run_description", { name: "Note", text: (run) => run.run_description ?? "" }],
]);
export const USUAL = ["epoch", "val_recall", "val_specificity", "val_auroc", "created_at", "training_time", "tags"];

export const isSetting = (key) => key.includes(".");

export function column(key) {
  if (COLUMNS[key]) return COLUMNS[key];
  return isSetting(key) ? { name: key.split(".")[1], title: key, sort: key, text: (run) => shown(run.settings?.[key]) } : null;
}

let settings = null; // the keys of the configuration, asked for once
export const settingKeys = () => (settings ??= get("/openapi.json").then((one) => Object.keys(one.components.schemas.ConfigOverrides.properties)));

// A menu with a box for each column and a field for settings; `change` gets the chosen keys.
export function columnMenu(chosen, change) {
  const boxes = h("div", { class: "boxes" });
  const list = h("datalist", { id: "setting-keys" });
  const field = h("input", { list: "setting-keys", "aria-label": "a setting as a column", placeholder: "model.backbone" });
  const draw = () => put(boxes, [...Object.keys(COLUMNS), ...chosen.filter(isSetting)].map((key) => {
    const box = h("input", { type: "checkbox", onchange: () => {
      chosen = box.checked ? [...chosen, key] : chosen.filter((one) => one !== key);
      change(chosen);
    } });
    box.checked = chosen.includes(key);
    return h("label", {}, box, " ", isSetting(key) ? key : COLUMNS[key].name);
  }));
  const add = async () => {
    if (!(await settingKeys()).includes(field.value) || chosen.includes(field.value)) return;
    chosen = [...chosen, field.value];
    field.value = "";
    draw();
    change(chosen);
  };
  draw();
  return h("details", { class: "menu", ontoggle: async () => put(list, (await settingKeys()).map((key) => h("option", { value: key }))) },
    h("summary", { class: "button" }, "Columns"),
    h("div", {}, boxes, h("form", { class: "bar", onsubmit: (event) => { event.preventDefault(); add(); } }, field, h("button", {}, "Add setting")), list,
      h("button", { type: "button", class: "plain", onclick: () => { chosen = [...USUAL]; draw(); change(chosen); } }, "Usual columns")));
}
