/* What is not saved yet: one entry of the storage each, under an idempotency key, so that a closed
   tab, a lost answer or a second tab loses nothing. Entries are sent one after the other, oldest
   first; what the server did not answer for is sent again under the same key.

   An entry may lean on an earlier one that is still on its way (`after`: its key): once that one is
   saved, the event that the server gave it is filled in as `fill` says. The images of a batch learn
   theirs from the batches and undos of the same page (`of`) before it.

   An entry belongs to the person who made it, and is sent only while they score here.

   `browser` is what the outbox needs of one: storage, locks, fetch, now, setTimeout, clearTimeout. */
"use strict";

/* Where an entry goes and what the server is sent of it. */
function requestOf(entry) {
  const { project, person, name, at, after, fill, event_id, ...score } = entry;
  const { kind, key, images, value } = entry;
  if (kind === "undo") return ["undo", { key, event_id }];
  if (kind === "batch") return ["batches", { images, value, key }];
  if (kind === "undo-batch") return ["batches/undo", { key }];
  return ["scores", score];
}

function makeOutbox({ project, person, browser, saved, refused, changed, warn }) {
  const PREFIX = "tastemaker:outbox:", LATE = 400, FIRST_PAUSE = 500, LONGEST_PAUSE = 10000;
  const { storage } = browser;
  const unstored = new Map(); // where the browser stores nothing (private windows, a full disk)
  const mine = (entry) => (entry.person ?? person.id) === person.id;
  const undoes = (entry) => entry.kind === "undo" || entry.kind === "undo-batch";
  let last = 0, sending = false, pause = FIRST_PAUSE, again = 0;
  let elsewhere = false; // somebody else scores in this browser by now

  function stored() {
    const entries = [...unstored.values()];
    for (let i = 0; i < storage.length; i++) {
      const name = storage.key(i);
      if (name.startsWith(PREFIX)) entries.push(JSON.parse(storage.getItem(name)));
    }
    return entries.filter((entry) => entry.project === project).sort((a, b) => a.at - b.at);
  }

  const all = () => stored().filter(mine);

  /* The images that an entry waits for. */
  const images = () => all().flatMap((entry) => (
    entry.kind === "batch" ? entry.images.map((one) => one.image_id) : entry.image_id ?? []));

  function store(entry) {
    try { storage.setItem(PREFIX + entry.key, JSON.stringify(entry)); }
    catch { unstored.set(entry.key, entry); }
  }

  function remove(entry) {
    unstored.delete(entry.key);
    storage.removeItem(PREFIX + entry.key);
  }

  /* The entry brings its `key`, unlike any other. */
  function put(entry) {
    last = Math.max(last + 1, browser.now());
    store({ ...entry, project, person: person.id, name: person.name, at: last });
  }

  async function send() {
    browser.clearTimeout(again);
    if (sending) return;
    sending = true;
    try {
      let answered = true;
      while (answered && all().length) { // one may have come while the turn was handed back
        // Two tabs send the same entries; taking turns, they keep the order.
        answered = await (browser.locks ? browser.locks.request(PREFIX + project, drain) : drain());
      }
    } finally { sending = false; }
    const left = all().length;
    changed(left, false);
    if (left) again = browser.setTimeout(send, pause = Math.min(2 * pause, LONGEST_PAUSE));
  }

  /* Send until none is left (true) or one is not answered. */
  async function drain() {
    for (let entry; (entry = all()[0]); ) {
      const late = browser.setTimeout(() => changed(all().length, true), LATE);
      const response = await post(entry);
      browser.clearTimeout(late);
      if (!response) {
        changed(all().length, true);
        return false;
      }
      remove(entry);
      pause = FIRST_PAUSE;
      elsewhere = false;
      const { ok, status, answer } = response;
      if (ok && Object.keys(answer.events ?? { 0: 0 }).length) {
        fillIn(entry, answer.events ?? {});
        lean(entry, answer.event_id);
        saved(entry, answer);
      } else {
        all().filter((other) => other.after === entry.key && undoes(other)).forEach(remove);
        lean(entry, entry.expected);
        if (ok) saved(entry, answer); // a batch of which no image was saved
        else await refused(entry, status, answer);
      }
    }
    return true;
  }

  function lean(entry, event_id) {
    for (const later of all().filter((other) => other.after === entry.key)) {
      store({ ...later, after: undefined, ...(later.fill && { [later.fill]: event_id }) });
    }
  }

  function fillIn(entry, events) {
    const later = all().filter((other) => other.kind === "batch" && entry.of && other.of === entry.of);
    for (const batch of later) {
      const known = batch.images.map((one) => ({ ...one, expected: events[one.image_id] ?? one.expected }));
      store({ ...batch, images: known });
    }
  }

  /* The server's answer; null where there is none yet, or one that asks to try again. */
  async function post(entry) {
    const [path, body] = requestOf(entry);
    try {
      const response = await browser.fetch(`/api/v1/projects/${project}/${path}`, {
        method: "POST",
        headers: { "Content-Type": "application/json", ...(entry.person && { "Tastemaker-Opened-For": entry.person }) },
        body: JSON.stringify(body),
      });
      const { ok, status } = response, answer = await response.json();
      if (status === 401) warn(answer.error, "Sign in in another tab; the scores wait here.");
      if (answer.code === "somebody-else") {
        if (!elsewhere) warn(answer.error, `${answer.hint} What you said waits here until ${entry.name} scores again.`);
        elsewhere = true;
        return null;
      }
      return status === 401 || status === 429 || status >= 500 ? null : { ok, status, answer };
    } catch { return null; }
  }

  const others = stored().filter((entry) => !mine(entry));
  if (others.length) {
    const name = others[0].name, number = others.filter((entry) => entry.name === name).length;
    warn(`${number} ${number === 1 ? "score" : "scores"} by ${name} ${number === 1 ? "waits" : "wait"} in this browser.`,
      `Nothing is lost: this is sent once ${name} scores here again (People, or signing in).`);
  }
  return { all, images, put, send, elsewhere: () => elsewhere };
}

/* The outbox of a page: entries outlive it, and are sent whenever the connection comes back. */
function pageOutbox(options) {
  const browser = {
    storage: localStorage, locks: navigator.locks, now: Date.now,
    fetch: (...request) => fetch(...request),
    setTimeout: (act, pause) => setTimeout(act, pause), clearTimeout: (timer) => clearTimeout(timer),
  };
  const outbox = makeOutbox({ browser, warn, ...options });
  for (const moment of ["online", "pageshow"]) addEventListener(moment, outbox.send);
  return outbox;
}

if (typeof module === "object") module.exports = { makeOutbox, requestOf };
