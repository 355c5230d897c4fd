/* What was said and is not saved yet: one entry of localStorage each, under an idempotency key, so
   that a closed tab, a lost answer or a second tab loses nothing. Entries are sent one after the
   other, oldest first; what the server did not answer for is sent again under the same key.

   An entry may lean on an earlier one that is still on its way (`after`: its key): once that one is
   saved, the event that the server gave it is filled in as `fill` says. The images of a batch learn
   theirs from the batches and undos of the same page (`of`) before it.

   An entry belongs to the person it was said by, and is sent only while they score here. */
"use strict";

function makeOutbox({ project, person, settled, refused, changed }) {
  const PREFIX = "tastemaker:outbox:", LATE = 400, FIRST_PAUSE = 500, LONGEST_PAUSE = 10000;
  const api = `/api/v1/projects/${project}`;
  const unkept = new Map(); // where the browser keeps nothing (private windows, a full disk)
  const mine = (entry) => (entry.person ?? person.id) === person.id;
  const undoes = (entry) => entry.kind === "undo" || entry.kind === "undo-batch";
  let last = 0, sending = false, pause = FIRST_PAUSE, again = 0;
  let elsewhere = false; // somebody else scores in this browser by now

  const all = () => kept().filter(mine);

  /* The images that something waits to be said of. */
  const images = () => all().flatMap((entry) => (
    entry.kind === "batch" ? entry.images.map((one) => one.image_id) : entry.image_id ?? []));

  function kept() {
    const entries = [...unkept.values()];
    for (let i = 0; i < localStorage.length; i++) {
      const name = localStorage.key(i);
      if (name.startsWith(PREFIX)) entries.push(JSON.parse(localStorage.getItem(name)));
    }
    return entries.filter((entry) => entry.project === project).sort((a, b) => a.at - b.at);
  }

  function keep(entry) {
    try { localStorage.setItem(PREFIX + entry.key, JSON.stringify(entry)); }
    catch { unkept.set(entry.key, entry); }
  }

  function remove(entry) {
    unkept.delete(entry.key);
    localStorage.removeItem(PREFIX + entry.key);
  }

  function put(entry) {
    const key = newKey();
    last = Math.max(last + 1, Date.now());
    keep({ ...entry, project, person: person.id, name: person.name, key, at: last });
    return key;
  }

  async function send() {
    clearTimeout(again);
    if (sending) return;
    sending = true;
    // Two tabs send the same entries; taking turns, they keep the order.
    if (navigator.locks) await navigator.locks.request(PREFIX + project, drain);
    else await drain();
    sending = false;
    const left = all().length;
    changed(left, false);
    if (left) again = setTimeout(send, pause = Math.min(2 * pause, LONGEST_PAUSE));
  }

  async function drain() {
    for (let entry; (entry = all()[0]); ) {
      const late = setTimeout(() => changed(all().length, true), LATE);
      const answer = await post(entry);
      clearTimeout(late);
      if (!answer) return changed(all().length, true);
      remove(entry);
      pause = FIRST_PAUSE;
      elsewhere = false;
      if (answer.ok && Object.keys(answer.told.events ?? { 0: 0 }).length) {
        fillIn(entry, answer.told.events ?? {});
        lean(entry, answer.told.event_id);
        settled(entry, answer.told);
      } else {
        all().filter((other) => other.after === entry.key && undoes(other)).forEach(remove);
        lean(entry, entry.expected);
        if (answer.ok) settled(entry, answer.told); // a batch of which no image was saved
        else await refused(entry, answer.status, answer.told);
      }
    }
  }

  function lean(entry, event_id) {
    for (const later of all().filter((other) => other.after === entry.key)) {
      keep({ ...later, after: undefined, ...(later.fill && { [later.fill]: event_id }) });
    }
  }

  function fillIn(entry, events) {
    const later = all().filter((other) => other.kind === "batch" && entry.of && other.of === entry.of);
    for (const batch of later) {
      const known = batch.images.map((one) => ({ ...one, expected: events[one.image_id] ?? one.expected }));
      keep({ ...batch, images: known });
    }
  }

  /* The server's answer; null where there is none yet, or one that asks to try again. */
  async function post(entry) {
    const { project: _, person: by, name, at, after, fill, event_id, ...rest } = entry;
    const { key, images: chosen, value } = entry;
    const [path, body] = {
      undo: ["undo", { key, event_id }], batch: ["batches", { images: chosen, value, key }],
      "undo-batch": ["batches/undo", { key }],
    }[entry.kind] ?? ["scores", rest];
    try {
      const answer = await fetch(`${api}/${path}`, {
        method: "POST",
        headers: { "Content-Type": "application/json", ...(by && { "Tastemaker-Opened-For": by }) },
        body: JSON.stringify(body),
      });
      const told = await answer.json();
      if (answer.status === 401) tell(told.error, "Sign in in another tab; the scores wait here.");
      if (told.code === "somebody-else") {
        if (!elsewhere) tell(told.error, `${told.hint} What you said waits here until ${name} scores again.`);
        elsewhere = true;
        return null;
      }
      const later = answer.status === 401 || answer.status === 429 || answer.status >= 500;
      return later ? null : { ok: answer.ok, status: answer.status, told };
    } catch { return null; }
  }

  for (const moment of ["online", "pageshow"]) addEventListener(moment, send);
  const others = kept().filter((entry) => !mine(entry));
  if (others.length) {
    const name = others[0].name, number = others.filter((entry) => entry.name === name).length;
    tell(`${number} ${number === 1 ? "score" : "scores"} by ${name} ${number === 1 ? "waits" : "wait"} in this browser.`,
      `Nothing is lost: this is sent once ${name} scores here again (People, or signing in).`);
  }
  return { all, images, put, remove, send, elsewhere: () => elsewhere };
}
