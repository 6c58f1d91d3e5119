// What a run came to, in a sentence that a clinician can use.

import { h, percent, plain } from "./dom.js";
import { term } from "./glossary.js";

export function headline(run, labels, patients) {
  const tested = run.result?.test;
  const found = tested ?? run.result?.validation;
  if (!found || found.recall == null) return null;
  const [negative, positive] = labels;
  const range = (name) => { const [low, high] = found.intervals?.[name] ?? []; return low == null ? "" : ` [${percent(low)} to ${percent(high)}]`; };
  const wrong = found.intervals?.specificity ?? [];
  const wrongRange = wrong[0] == null ? "" : ` [${percent(1 - wrong[1])} to ${percent(1 - wrong[0])}]`;
  const people = found.patients ?? patients?.[tested ? "test" : "val"];
  const rule = found.operating_point?.rule ?? (found.threshold === 0.5 ? "the usual one" : "chosen by a rule");
  return h("section", { class: "card headline" },
    h("p", { class: "large" }, "Found ", h("b", {}, percent(found.recall)), ` of the images with ${positive}${range("recall")}; called `,
      h("b", {}, percent(1 - found.specificity)), ` of the ${negative} images ${positive}${wrongRange}.`),
    h("p", { class: "soft small" }, term("threshold", `Threshold ${plain(found.threshold)}`), ` (${rule}), on ${found.count} ${tested ? "test" : "validation"} images`,
      people ? ` of ${people} patients` : "", tested ? ", which no part of the training has used." : ". They also chose the epoch: on new images expect less. A test part (system.test_split) would say how much.",
      " 95 % intervals in brackets."));
}

const HELP = {
  no_patient_ids: "Images of one patient may be in training and validation: figures may be too good.",
};

export function banners(run, warnings) {
  const texts = [...new Map(warnings.map((one) => [one.message, one])).values()];
  return [run.result?.selection ? h("p", { class: "banner info" }, run.result.selection) : null,
    texts.length > 3
      ? h("details", { class: "banner" }, h("summary", {}, `${texts.length} warnings`), h("ul", {}, texts.map((one) => h("li", {}, one.message))))
      : texts.map((one) => h("p", { class: "banner" }, one.message, HELP[one.code] ? ` ${HELP[one.code]}` : ""))];
}
