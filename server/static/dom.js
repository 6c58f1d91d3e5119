// Elements from plain calls; text is always text, so nothing that a run holds can become markup.

const SVG = "http://www.w3.org/2000/svg";

export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...present(children));
  return element;
}

// In place of all that an element holds; null and false are left out.
export function put(element, ...children) {
  element.replaceChildren(...present(children));
}

const present = (children) => children.flat(Infinity).filter((child) => child != null && child !== false);

// Text that is already there is not written again: focus and selection stay as they are.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function notice(text) {
  const box = document.getElementById("notice");
  box.textContent = text;
  box.hidden = !text;
  clearTimeout(notice.timer);
  notice.timer = setTimeout(() => { box.hidden = true; }, 8000);
}

export function later(milliseconds, work) {
  let timer;
  return () => { clearTimeout(timer); timer = setTimeout(work, milliseconds); };
}

export const percent = (value) => (value == null ? "–" : `${(100 * value).toFixed(1)} %`);

export const plain = (value) =>
  value == null ? "–" : Math.abs(value) < 1e-3 && value !== 0 ? value.toExponential(1) : String(+value.toPrecision(4));

export function duration(seconds) {
  if (seconds == null) return "–";
  const whole = Math.round(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

export const bytes = (n) =>
  n >= 1e9 ? `${(n / 1e9).toFixed(1)} GB` : n >= 1e6 ? `${(n / 1e6).toFixed(1)} MB` : `${Math.ceil(n / 1e3)} kB`;

export const when = (iso) => (iso ? new Date(iso).toLocaleString() : "–");

const UNITS = [["year", 31536000], ["month", 2592000], ["day", 86400], ["hour", 3600], ["minute", 60]];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });

// "3 hours ago", with the exact time as its title.
export function ago(iso) {
  if (!iso || Number.isNaN(Date.parse(iso))) return "–";
  const seconds = (Date.parse(iso) - Date.now()) / 1000;
  const [unit, size] = UNITS.find(([, size]) => Math.abs(seconds) >= size) ?? ["second", 1];
  const text = Math.abs(seconds) < 60 ? "just now" : relative.format(Math.round(seconds / size), unit);
  return h("time", { datetime: iso, title: when(iso) }, text);
}

export const status = (name) => h("span", { class: `status ${name}` }, name.replace("_", " "));

export function flat(config) {
  return Object.fromEntries(Object.entries(config ?? {}).flatMap(([section, keys]) =>
    Object.entries(keys ?? {}).map(([key, value]) => [`${section}.${key}`, value])));
}

export const shown = (value) =>
  value == null ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value);

export function save(name, content, kind) {
  const url = URL.createObjectURL(new Blob([content], { type: kind }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

export const LIVE = ["queued", "preparing", "in_progress"];
export const RESUMABLE = ["interrupted", "stopped", "failed"];
