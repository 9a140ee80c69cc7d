// Finished images, each beside itself at the cut; a touch shows it large, with its steps.

import { ago, byId, element } from "./element.js";
import { SOURCES, nameOf } from "./jobs.js";

const SHOWN_AT_FIRST = 12;
const COARSE_PIXELS = 96; // smaller pictures are shown with their pixels, larger ones smoothly

const batches = new Map();
let open = null;

const place = (template, n) => template.replace("{n}", String(n));

export function showGallery(all) {
  const finished = all.filter((job) => job.state === "completed" && job.links.image);
  byId("gallery-empty").hidden = finished.length > 0;
  for (const [id, batch] of batches) {
    if (!finished.some((job) => job.job_id === id)) { batch.remove(); batches.delete(id); }
  }
  let after = byId("gallery-empty");
  for (const job of finished) {
    let batch = batches.get(job.job_id);
    if (!batch) { batch = makeBatch(job); batches.set(job.job_id, batch); }
    batch.querySelector(".age").textContent = ago(job.age_seconds);
    if (after.nextElementSibling !== batch) after.after(batch);
    after = batch;
  }
}

function makeBatch(job) {
  const tiles = element("div", { class: "tiles" });
  const add = (from, to) => { for (let n = from; n < to; n += 1) tiles.append(makeTile(job, n)); };
  add(0, Math.min(job.count, SHOWN_AT_FIRST));
  const rest = element("button", { class: "plain", type: "button", hidden: job.count <= SHOWN_AT_FIRST }, `Show all ${job.count}`);
  rest.addEventListener("click", () => { rest.hidden = true; add(SHOWN_AT_FIRST, job.count); });
  return element("section", { class: "batch", "data-job": job.job_id, "aria-label": nameOf(job) },
    element("div", { class: "batch-head" },
      element("strong", {}, nameOf(job)),
      job.source ? element("span", { class: "tag" }, SOURCES[job.source] ?? job.source) : null,
      element("span", { class: "quiet age" }),
      element("span", { class: "grow" }),
      job.source === "pool" ? null : element("span", { class: "quiet" }, `seed ${job.seed}`), // a stocked image has its own
      element("a", { class: "quiet", href: job.links.images_npy, download: "" }, "NPY")),
    tiles, rest);
}

function makeTile(job, n) {
  const tile = element("button", { class: "tile", type: "button", "aria-label": `Image ${n + 1} of ${nameOf(job)}: show it large` },
    element("span", { class: "pair small" },
      element("span", { class: "frame" }, picture(place(job.links.cut ?? job.links.image, n), `Image ${n + 1} at the cut`, "cut")),
      element("span", { class: "frame" }, picture(place(job.links.image, n), `Image ${n + 1}, finished`, "finished"))),
    element("span", { class: "tile-foot" }, element("span", {}, "at the cut"), element("span", {}, job.frames ? `${job.frames - 1} steps, finished` : "finished")));
  tile.addEventListener("click", () => show(job, n));
  return tile;
}

function picture(source, words, kind) {
  const image = element("img", { src: source, alt: words, loading: "lazy", decoding: "async", "data-kind": kind });
  image.addEventListener("load", () => image.classList.toggle("coarse", image.naturalWidth <= COARSE_PIXELS));
  return image;
}

function show(job, n) {
  open = { job, n };
  byId("viewer-title").textContent = `Image ${n + 1} of ${job.count}${job.label === null ? "" : `, label ${job.label}`}`;
  const set = (id, source, words) => {
    const image = picture(source, words, id);
    image.id = id;
    image.loading = "eager";
    byId(id).replaceWith(image);
  };
  set("viewer-cut", place(job.links.cut ?? job.links.image, n), "At the cut");
  set("viewer-image", place(job.links.image, n), "Finished");
  byId("viewer-png").href = place(job.links.image, n);
  byId("viewer-cut-png").hidden = !job.links.cut;
  if (job.links.cut) byId("viewer-cut-png").href = place(job.links.cut, n);
  byId("viewer-npy").href = job.links.images_npy;
  byId("viewer-back").disabled = n === 0;
  byId("viewer-next").disabled = n === job.count - 1;
  showFilm(job, n);
  if (!byId("viewer").open) byId("viewer").showModal();
}

function showFilm(job, n) {
  const stage = byId("viewer-stage"), slider = byId("viewer-step"), strip = byId("viewer-strip");
  stage.querySelector(".film")?.remove();
  byId("viewer-film").hidden = !job.frames;
  byId("viewer-none").hidden = Boolean(job.frames);
  byId("viewer-caption").textContent = "Finished";
  if (!job.frames) return;
  const last = job.frames - 1, source = `url("${place(job.links.steps, n)}")`;
  const film = element("div", { class: "film", hidden: true });
  stage.append(film);
  const put = (cell, step) => {
    cell.style.backgroundImage = source;
    cell.style.backgroundSize = `${100 * job.frames}% 100%`;
    cell.style.backgroundPosition = `${last ? 100 * step / last : 0}% 0`;
    cell.classList.toggle("smooth", byId("viewer-image").naturalWidth > COARSE_PIXELS);
  };
  const turn = (step) => {
    slider.value = String(step);
    put(film, step);
    film.hidden = step === last;
    byId("viewer-count").textContent = `${step} of ${last}`;
    byId("viewer-caption").textContent = step === last ? "Finished" : step === 0 ? "As it came" : `After step ${step} of ${last}`;
    for (const [index, item] of [...strip.children].entries()) item.firstChild.setAttribute("aria-current", String(index === step));
  };
  slider.max = String(last);
  slider.oninput = () => turn(Number(slider.value));
  strip.replaceChildren(...Array.from({ length: job.frames }, (_, step) => {
    const cell = element("button", { class: "cell", type: "button", "aria-label": step === 0 ? "As it came" : `After step ${step}` });
    cell.addEventListener("click", () => turn(step));
    put(cell, step);
    return element("li", {}, cell);
  }));
  turn(last);
}

const move = (by) => { if (open && open.n + by >= 0 && open.n + by < open.job.count) show(open.job, open.n + by); };

export function prepareViewer() {
  const viewer = byId("viewer");
  byId("viewer-close").addEventListener("click", () => viewer.close());
  byId("viewer-back").addEventListener("click", () => move(-1));
  byId("viewer-next").addEventListener("click", () => move(1));
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("keydown", (event) => {
    if (event.target.type === "range") return;
    if (event.key === "ArrowLeft") move(-1);
    if (event.key === "ArrowRight") move(1);
  });
}
