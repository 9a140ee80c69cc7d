// The local API as this page needs it. A lost login leads to the form; every other problem is thrown with its sentence.

export class Problem extends Error {
  constructor(status, words) {
    super(words);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { Accept: "application/json", ...options.headers } });
  } catch {
    throw new Problem(0, "The agent does not answer. Is it still running?");
  }
  if (answer.status === 401) window.location.assign("/login");
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Problem(answer.status, sentence(content.detail ?? `The agent answered ${answer.status}`));
  return content;
}

export const status = () => ask("/v1/status");

export const job = (id) => ask(`/v1/jobs/${id}`);

export const jobs = (limit, before) => ask(`/v1/jobs?limit=${limit}${before ? `&before=${before}` : ""}`);

export const cancel = (id) => ask(`/v1/jobs/${id}`, { method: "DELETE" });

export const make = (wish, key) => ask("/v1/images", {
  method: "POST",
  headers: { "Content-Type": "application/json", "Idempotency-Key": key },
  body: JSON.stringify(wish),
});

// Follow a job: `tell` is called with it whenever it has moved. Where the stream does not hold, it is asked for every second.
export function follow(id, tell) {
  const source = new EventSource(`/v1/jobs/${id}/events`);
  let timer = null;
  const stop = () => { source.close(); clearInterval(timer); };
  const take = (event) => {
    const seen = JSON.parse(event.data);
    if (event.type === "end") stop();
    tell(seen);
  };
  source.addEventListener("progress", take);
  source.addEventListener("end", take);
  source.addEventListener("error", () => {
    if (source.readyState !== EventSource.CLOSED || timer !== null) return;
    timer = setInterval(async () => {
      const seen = await job(id).catch(() => null);
      if (seen === null) return;
      if (isOver(seen)) stop();
      tell(seen);
    }, 1000);
  });
  return stop;
}

export const isOver = (seen) => ["completed", "failed", "expired"].includes(seen.state);

function sentence(words) {
  const line = String(words).trim();
  return `${line.charAt(0).toUpperCase()}${line.slice(1)}${/[.?!]$/.test(line) ? "" : "."}`;
}
