// Cancel, resume and delete, wherever a run is shown.

import { post, request } from "./api.js";
import { h, LIVE, notice, RESUMABLE } from "./dom.js";

export function actions(run, after) {
  const button = (text, work, kind = "") => h("button", { type: "button", class: kind, onclick: async (event) => {
    event.target.disabled = true;
    try {
      const answer = await work();
      if (answer?.message) notice(`Run ${run.run_id}: ${answer.message}.`);
    } catch (error) {
      notice(error.message);
    }
    await after();
  } }, text);
  if (LIVE.includes(run.status)) return [button("Cancel", () => post(`/runs/${run.run_id}/cancel`))];
  return RESUMABLE.includes(run.status) ? [button("Resume", () => post(`/runs/${run.run_id}/resume`))] : [];
}

export function deleteButton(run) {
  return h("button", { type: "button", class: "danger", onclick: async () => {
    if (!confirm(`Delete run ${run.run_id} with its checkpoints and figures?`)) return;
    try {
      await request("DELETE", `/runs/${run.run_id}`);
      location.hash = "#/";
    } catch (error) {
      notice(error.message);
    }
  } }, "Delete");
}
