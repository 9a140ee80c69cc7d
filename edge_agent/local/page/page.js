// The page as a whole: looks every two seconds while somebody sees it, and follows the job that was asked for last.

import * as api from "./api.js";
import { showDevice, showLost } from "./device.js";
import { byId } from "./element.js";
import { prepareViewer, showGallery } from "./gallery.js";
import { showJobs } from "./jobs.js";

const LOOK_MILLISECONDS = 2000;
const PAGE_OF_JOBS = 12;
const MOST_JOBS = 96;

let jobs = [];
let wanted = PAGE_OF_JOBS;
let connected = false;
let followed = null;
let stopFollowing = () => {};

async function look() {
  if (document.hidden) return;
  try {
    const [status, list] = await Promise.all([api.status(), api.jobs(wanted)]);
    connected = Boolean(status.link?.connected);
    showDevice(status);
    byId("more").hidden = list.next === null || wanted >= MOST_JOBS;
    jobs = list.jobs;
    showAll();
  } catch (problem) {
    showLost(problem.message);
  }
}

function showAll() {
  showJobs(jobs, connected, look);
  showGallery(jobs);
  followNewest();
}

// One stream at a time: a browser opens only six connections to one address, for all its tabs together.
function followNewest() {
  const newest = jobs.find((job) => !api.isOver(job))?.job_id ?? null;
  if (newest === followed) return;
  stopFollowing();
  followed = newest;
  stopFollowing = newest === null ? () => {} : api.follow(newest, (seen) => {
    jobs = jobs.map((job) => (job.job_id === seen.job_id ? seen : job));
    showAll();
  });
}

function wish() {
  const number = (id) => {
    const field = byId(id), text = field.value.trim();
    const value = text === "" ? null : Number(text);
    const good = field.validity.valid && (value === null ? !field.required : Number.isSafeInteger(value));
    field.setAttribute("aria-invalid", String(!good));
    return good ? value : undefined;
  };
  return { count: number("count"), label: number("label"), seed: number("seed"), steps: number("steps"), budget_ms: number("budget_ms") };
}

function tell(words) {
  byId("make-problem").textContent = words;
  byId("make-problem").hidden = words === "";
}

async function make(event) {
  event.preventDefault();
  const asked = wish();
  if (Object.values(asked).includes(undefined)) {
    tell("Please use whole numbers: 1 to 1024 images, labels from 0, at least one step.");
    return;
  }
  tell("");
  const button = byId("make-button");
  button.disabled = true;
  try {
    await api.make(asked, key());
    await look();
  } catch (problem) {
    tell(problem.message);
  } finally {
    button.disabled = false;
  }
}

// Away from localhost and without TLS, browsers keep crypto.randomUUID to themselves.
const key = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

byId("make").addEventListener("submit", make);
byId("more").addEventListener("click", () => { wanted = Math.min(MOST_JOBS, wanted + PAGE_OF_JOBS); look(); });
document.addEventListener("visibilitychange", look);
prepareViewer();
look();
setInterval(look, LOOK_MILLISECONDS);
