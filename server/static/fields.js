// Form fields that take what the configuration's schema takes.

import { h } from "./dom.js";

// The field of one key: {element, input, rule, set(value)}. `value` is a stored run's, if any.
export function fieldFor(key, rule, name, value) {
  const input = inputFor(key, rule);
  const set = (next) => { input.value = Array.isArray(next) ? next.join(", ") : isMap(rule) ? Object.entries(next ?? {}).map((pair) => pair.join(": ")).join(", ") : String(next); };
  set(value ?? rule.default);
  input.setAttribute("aria-describedby", `${key}-meaning ${key}-error`);
  const label = name ?? key.split(".")[1].replaceAll("_", " ").replace(/^./, (letter) => letter.toUpperCase());
  const element = h("div", { class: "field" }, h("label", { for: key }, label, " ", h("code", { class: "soft small" }, key)), input,
    h("p", { id: `${key}-error`, class: "wrong", hidden: true }), h("span", { class: "soft small", id: `${key}-meaning` }, rule.description));
  return { element, input, rule, set };
}

// A message at a field; an empty one takes it away.
export function say(input, message) {
  const place = document.getElementById(`${input.id}-error`);
  if (place) { place.textContent = message; place.hidden = !message; }
  message ? input.setAttribute("aria-invalid", "true") : input.removeAttribute("aria-invalid");
}

const isMap = (rule) => rule.type === "object"; // of labels: "Lung Opacity: 1, *: drop"

export const isRight = (field) => field.input.checkValidity();

function inputFor(key, rule) {
  const one = rule.anyOf ? rule.anyOf[0] : rule;
  const choices = rule.anyOf ? rule.anyOf[1].enum : rule.enum;
  if (rule.enum || one.type === "boolean") {
    const options = [...(one.type === "boolean" ? ["true", "false"] : []), ...(choices ?? [])];
    return h("select", { id: key }, options.map((option) => h("option", { value: option }, option)));
  }
  if (isMap(rule)) return h("input", { id: key, placeholder: "Lung Opacity: 1, Normal: 0, *: drop", pattern: "\\s*|[^,]+:\\s*(0|1|drop)\\s*(,[^,]+:\\s*(0|1|drop)\\s*)*" });
  if (choices || one.type === "array" || one.type === "string") return h("input", { id: key, required: one.type !== "array" && one.minLength > 0, pattern: one.pattern?.slice(1, -1) });
  return h("input", { id: key, type: "number", required: true, step: one.type === "integer" ? 1 : "any", min: one.minimum ?? one.exclusiveMinimum, max: one.maximum });
}

export function valueOf({ input, rule }) {
  const one = rule.anyOf ? rule.anyOf[0] : rule;
  const text = input.value.trim();
  if ((rule.anyOf?.[1].enum ?? rule.enum ?? []).includes(text)) return text;
  if (one.type === "boolean") return text === "true";
  if (isMap(rule)) return mapOf(text);
  if (one.type === "array") return text === "" ? [] : text.split(",").map((item) => (one.items?.type === "string" ? item.trim() : Number(item)));
  return one.type === "string" ? text : Number(text);
}

// The last colon of each part separates.
function mapOf(text) {
  return Object.fromEntries(text.split(",").filter((part) => part.includes(":")).map((part) => {
    const at = part.lastIndexOf(":");
    const value = part.slice(at + 1).trim();
    return [part.slice(0, at).trim(), value === "drop" ? value : Number(value)];
  }));
}
