/* What was said and is not saved yet: one entry of localStorage each, under an idempotency key, so
   that a closed tab, a lost answer or a second tab loses nothing. Entries are sent one after the
   other, oldest first; what the server did not answer for is sent again under the same key.

   An entry may lean on an earlier one that is still on its way (`after`: its key): once that one is
   saved, the event that the server gave it is filled in as `fill` says. */
"use strict";

function makeOutbox({ project, settled, refused, changed }) {
  const PREFIX = "tastemaker:outbox:", LATE = 400, FIRST_PAUSE = 500, LONGEST_PAUSE = 10000;
  const api = `/api/v1/projects/${project}`;
  const unkept = new Map(); // where the browser keeps nothing (private windows, a full disk)
  let last = 0, sending = false, pause = FIRST_PAUSE, again = 0;

  function all() {
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
    keep({ ...entry, project, key, at: last });
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
      if (answer.ok) {
        lean(entry, answer.told.event_id);
        settled(entry, answer.told);
      } else {
        all().filter((other) => other.after === entry.key && other.kind === "undo").forEach(remove);
        lean(entry, entry.expected);
        await refused(entry, answer.status, answer.told);
      }
    }
  }

  function lean(entry, event_id) {
    for (const later of all().filter((other) => other.after === entry.key)) {
      keep({ ...later, after: undefined, [later.fill]: event_id });
    }
  }

  /* The server's answer; null where there is none yet, or one that asks to try again. */
  async function post(entry) {
    const { project: _, at, after, fill, event_id, ...rest } = entry;
    const undoing = entry.kind === "undo";
    try {
      const answer = await fetch(`${api}/${undoing ? "undo" : "scores"}`, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(undoing ? { key: entry.key, event_id } : rest),
      });
      const told = await answer.json();
      if (answer.status === 401) tell(told.error, "Sign in in another tab; the scores wait here.");
      const later = answer.status === 401 || answer.status === 429 || answer.status >= 500;
      return later ? null : { ok: answer.ok, status: answer.status, told };
    } catch { return null; }
  }

  for (const moment of ["online", "pageshow"]) addEventListener(moment, send);
  return { all, put, remove, send };
}
