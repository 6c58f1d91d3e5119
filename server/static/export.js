// A chart as a file: SVG and PNG as it is seen, CSV with every point.

import { save } from "./dom.js";

export const fileName = (title) => title.toLowerCase().replace(/[^a-z0-9]+/g, "-");

const COPIED = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "opacity", "font-size", "font-family", "visibility"];

// The picture on its own: what the style sheet says is written into each element.
function standalone(chart) {
  const copy = chart.svg.cloneNode(true);
  const [from, to] = [chart.svg, copy].map((svg) => [svg, ...svg.querySelectorAll("*")]);
  from.forEach((element, i) => {
    const style = getComputedStyle(element);
    for (const name of COPIED) to[i].setAttribute(name, style.getPropertyValue(name));
  });
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  const ground = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [name, value] of [["width", "100%"], ["height", "100%"], ["fill", getComputedStyle(chart.element.closest(".card") ?? document.body).backgroundColor]]) ground.setAttribute(name, value);
  copy.prepend(ground);
  return new XMLSerializer().serializeToString(copy);
}

export const exportSvg = (chart) => save(`${fileName(chart.title)}.svg`, standalone(chart), "image/svg+xml");

export async function exportPng(chart) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(standalone(chart))}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [2 * image.width, 2 * image.height];
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  canvas.toBlob((blob) => save(`${fileName(chart.title)}.png`, blob, "image/png"));
}

const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

// One row for each x, one column for each series.
export function exportCsv(label, series) {
  const columns = series.map((one) => new Map(one.points));
  const xs = [...new Set(series.flatMap((one) => one.points.map(([x]) => x)))].sort((a, b) => a - b);
  const rows = xs.map((x) => [x, ...columns.map((column) => column.get(x) ?? "")].join(","));
  return [[label, ...series.map((one) => quoted(one.name))].join(","), ...rows, ""].join("\n");
}
