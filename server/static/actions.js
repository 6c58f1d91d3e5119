// Cancel, resume and delete, wherever a run is shown.

import { post, request } from "./api.js";
import { h, LIVE, notice, put, RESUMABLE } from "./dom.js";

// A place for a run's buttons. They are made anew only where the run's state changes: a press that
// lasts longer than the time between two updates arrives, and the keyboard's focus stays.
export function actionBar(after) {
  const element = h("span", { class: "actions" });
  let state = null;
  return {
    element,
    update(run, allowed = true) {
      const next = allowed ? `${run.run_id} ${run.status}` : "";
      if (next === state) return;
      const focused = element.contains(document.activeElement);
      state = next;
      put(element, allowed ? actions(run, after) : null);
      if (focused) element.querySelector("button")?.focus();
    },
  };
}

function actions(run, after) {
  const button = (text, work) => h("button", { type: "button", "aria-label": `${text} run ${run.run_id}`, onclick: async (event) => {
    event.target.disabled = true;
    try {
      const answer = await work();
      if (answer?.message) notice(`Run ${run.run_id}: ${answer.message}.`);
    } catch (error) {
      notice(error.message);
    }
    event.target.disabled = false;
    await after();
  } }, text);
  if (LIVE.includes(run.status)) return button("Cancel", () => post(`/runs/${run.run_id}/cancel`));
  return RESUMABLE.includes(run.status) ? button("Resume", () => post(`/runs/${run.run_id}/resume`)) : null;
}

// Delete runs one after another; what could not be deleted is said. Whether any was.
export async function deleteRuns(ids) {
  const what = ids.length === 1 ? `run ${ids[0]} with its checkpoints and figures` : `${ids.length} runs with their checkpoints and figures`;
  if (!confirm(`Delete ${what}?`)) return false;
  const failed = [];
  for (const id of ids) {
    try {
      await request("DELETE", `/runs/${id}`);
    } catch (error) {
      failed.push(error.message);
    }
  }
  if (failed.length) notice(failed.slice(0, 5).join("\n"));
  return failed.length < ids.length;
}

// Add or remove a tag on several runs: "paper" adds, "-paper" removes.
export async function tagRuns(ids) {
  const word = prompt("Tag to add (with a minus before it: to remove)")?.trim();
  if (!word) return false;
  const change = word.startsWith("-") ? { remove_tags: [word.slice(1)] } : { add_tags: [word] };
  try {
    for (const id of ids) await request("PATCH", `/runs/${id}`, change);
  } catch (error) {
    notice(error.message);
  }
  return true;
}
