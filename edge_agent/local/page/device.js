// The cards at the side, and the sentence on top: how this device stands, in plain words. Any key of the status may be missing.

import { ago, byId, bytes, element, facts, many, note } from "./element.js";

export function showDevice(status) {
  const link = status.link ?? {};
  const shelves = Array.isArray(status.pool) ? status.pool : [];
  const stocked = shelves.reduce((sum, shelf) => sum + (shelf.images ?? 0), 0);
  byId("device").textContent = link.user ?? "this device";
  showChip(link);
  say(sentenceOf(status, link, stocked));
  byId("model").replaceChildren(...modelOf(status));
  byId("stock").replaceChildren(...stockOf(shelves));
  byId("outbox").replaceChildren(...outboxOf(status, link));
  byId("ledger").replaceChildren(...ledgerOf(status.ledger ?? {}));
}

export function showLost(words) {
  const chip = byId("link");
  chip.dataset.state = "lost";
  chip.querySelector(".word").textContent = "No answer";
  say(words);
}

function say(words) {
  const place = byId("sentence");
  if (place.textContent !== words) place.textContent = words; // a reader speaks what changes, and only that
}

function showChip(link) {
  const chip = byId("link");
  chip.dataset.state = link.connected ? "connected" : "offline";
  chip.querySelector(".word").textContent = link.connected ? "Connected" : link.closed_until ? `Closed until ${clock(link.closed_until)}` : "Offline";
}

function sentenceOf(status, link, stocked) {
  if (!status.head || status.head.identity === null) {
    return link.connected ? "Connected, but this device has no model yet." : "Offline, and this device has no model yet.";
  }
  if (link.connected) return "Connected: the server begins each image, this device finishes it.";
  const why = link.closed_until ? `Resting until ${clock(link.closed_until)}` : "Offline";
  return stocked > 0 ? `${why}: images are made from the stock of ${stocked}.` : `${why}: new images wait until the server can be reached.`;
}

function modelOf(status) {
  const head = status.head;
  if (!head) return [note("No model is installed. It comes with an update, or is named with --head.")];
  const plan = status.plan ?? {}, update = status.update ?? null, length = head.schedule_steps ?? status.contract?.schedule_T;
  const [, name, version] = /^(.*)-([^-]+)-[0-9a-f]{12}$/.exec(head.identity ?? "") ?? [null, head.identity, null];
  return [
    length && head.t_cut !== null ? chain(head.t_cut, length) : null,
    facts([
      ["Name", name ?? "none usable"],
      ["Version", version],
      ["Runs on", { cpu: "CPU", cuda: "GPU (CUDA)" }[head.provider] ?? head.provider],
      ["Cut", head.t_cut === null ? null : `t = ${head.t_cut}`],
      ["Steps here", plan.head_steps],
      ["Time per step", typeof plan.step_ms === "number" ? `${plan.step_ms.toFixed(1)} ms` : null],
      ["Update", update ? updateWords(update) : null],
    ]),
    plan.why ? note(plan.why) : null,
    update?.reason ? note(update.reason, ["failed", "refused", "rolled_back"].includes(update.state)) : null,
    head.error ? note(head.error, true) : null,
    head.key_revoked ? note("The key that vouched for this model is trusted no longer. It works on until another one comes.", true) : null,
  ].filter((part) => part !== null);
}

function updateWords(update) {
  const what = [update.name, update.version].filter((part) => part !== null && part !== undefined).join(" ");
  return [String(update.state ?? "").replaceAll("_", " "), what].filter(Boolean).join(": ");
}

function chain(cut, length) {
  const mark = element("div", { class: "chain-cut" });
  mark.style.left = `${100 * (1 - cut / length)}%`;
  const share = Math.round(100 * cut / length);
  return element("div", { class: "chain", role: "img", "aria-label": `The server takes ${100 - share} % of the noise away, this device ${share} %.` },
    element("div", { class: "chain-bar" }, mark),
    element("div", { class: "chain-words" }, element("span", {}, `Server ${100 - share} %`), element("span", {}, `This device ${share} %`)));
}

function stockOf(shelves) {
  if (shelves.length === 0) return [note("Nothing is kept in stock: images need the server. Set pool_images to make them offline as well.")];
  const rows = shelves.flatMap((shelf) => [
    element("span", {}, shelf.label === null || shelf.label === undefined ? "any" : `Label ${shelf.label}`),
    element("progress", { max: Math.max(1, shelf.wanted ?? 1), value: shelf.images ?? 0, "aria-label": `Stock of ${shelf.label ?? "any label"}` }),
    element("span", {}, `${shelf.images ?? 0} of ${shelf.wanted ?? "?"}${(shelf.usable ?? shelf.images) < shelf.images ? `, ${shelf.usable} of use now` : ""}`),
  ]);
  return [element("div", { class: "shelf" }, ...rows)];
}

function outboxOf(status, link) {
  const outbox = status.outbox ?? {}, waiting = outbox.messages ?? 0;
  return [
    facts([
      ["Link", link.connected ? "connected" : link.closed_until ? `closed until ${clock(link.closed_until)}` : "offline"],
      ["Waiting", waiting === 0 ? "nothing" : `${many(waiting, "message")}, ${bytes(outbox.bytes ?? 0)}`],
      ["Oldest", waiting === 0 ? null : ago(outbox.oldest_seconds ?? 0)],
      ["Stored by the server", status.receipts?.samples ? many(status.receipts.samples, "image") : null],
    ]),
    outbox.last_error ? note(outbox.last_error, true) : null,
  ].filter((part) => part !== null);
}

function ledgerOf(ledger) {
  const epsilon = ledger.epsilon_max, known = typeof epsilon === "number";
  return [
    facts([
      ["Images released", (ledger.images ?? 0).toLocaleString("en")],
      ["Releases", (ledger.releases ?? 0).toLocaleString("en")],
      ["Refused", ledger.refused || null],
      ["ε, largest", known ? epsilon.toPrecision(3) : null],
      ["δ", known && ledger.delta ? ledger.delta : null],
      ["ε, budget", ledger.epsilon_budget ?? null],
    ]),
    note(ledger.incomplete_since ? "This account is incomplete: releases may have been forgotten." : ledger.releases ? "Only noised copies ever left this device; its pictures did not." : "Nothing was ever released from this device."),
  ];
}

function clock(moment) {
  const date = typeof moment === "number" ? new Date(moment * 1000) : new Date(moment);
  return Number.isNaN(date.getTime()) ? String(moment) : date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
}
