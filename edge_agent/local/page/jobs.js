// Jobs in the making, with their progress, and those that have ended.

import * as api from "./api.js";
import { ago, byId, element, many } from "./element.js";

const STATES = {
  accepted: "waiting to begin",
  requested: "waiting for the server",
  partial: "coming from the server",
  finishing: "being finished here",
  completed: "done",
  failed: "failed",
  expired: "too late",
};
const TAGS = { completed: "good", failed: "bad", expired: "warn" };

export const SOURCES = { pool: "from the stock", server: "with the server", local: "made here alone" };

export const nameOf = (job) => `${many(job.count, "image")}${job.label === null ? "" : ` of label ${job.label}`}`;

const rows = new Map(); // of jobs in the making: kept, so that a reader's focus stays where it is

export function showJobs(all, connected, changed) {
  const going = all.filter((job) => !api.isOver(job)), ended = all.filter(api.isOver).slice(0, 8);
  byId("going").hidden = going.length === 0;
  for (const [id, row] of rows) {
    if (!going.some((job) => job.job_id === id)) { row.remove(); rows.delete(id); }
  }
  for (const job of going) {
    if (!rows.has(job.job_id)) {
      rows.set(job.job_id, makeRow(job, changed));
      byId("going-list").append(rows.get(job.job_id));
    }
    update(rows.get(job.job_id), job, connected);
  }
  byId("ended-list").replaceChildren(...(ended.length ? ended.map(endedRow) : [element("li", { class: "quiet" }, "None yet.")]));
}

function makeRow(job, changed) {
  const stop = element("button", { class: "plain", type: "button", "aria-label": `Cancel ${nameOf(job)}` }, "Cancel");
  stop.addEventListener("click", async () => {
    stop.disabled = true;
    await api.cancel(job.job_id).catch(() => null); // it may have ended by itself
    changed();
  });
  return element("li", { class: "job", "data-job": job.job_id },
    element("span", { class: "what" }, nameOf(job)), stop,
    element("progress", { max: job.count, value: 0, "aria-label": `Progress of ${nameOf(job)}` }),
    element("span", { class: "why" }));
}

function update(row, job, connected) {
  const waits = !connected && ["accepted", "requested", "partial"].includes(job.state);
  const finishing = job.state === "finishing";
  row.dataset.state = job.state;
  row.querySelector("progress").value = finishing ? job.done : 0;
  row.querySelector(".why").textContent = waits ? "waits until the server can be reached" : finishing ? `${job.done} of ${job.count} finished` : STATES[job.state];
}

function endedRow(job) {
  const words = job.state === "completed" ? [SOURCES[job.source], ago(job.age_seconds)].filter(Boolean).join(", ") : job.detail ?? job.reason;
  const state = job.reason === "cancelled" ? "cancelled" : STATES[job.state];
  return element("li", { class: "job", "data-job": job.job_id, "data-state": job.state },
    element("span", { class: "what" }, nameOf(job)),
    element("span", { class: `tag ${job.reason === "cancelled" ? "" : TAGS[job.state]}` }, state),
    element("span", { class: "why" }, words ?? ""));
}
