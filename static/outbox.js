/* What is not saved yet: one entry of the storage each, under an idempotency key, so that a closed
   tab, a lost answer or a second tab loses nothing. An entry leaves only on this program's own answer
   about that very entry: saved, or overtaken by a newer score, which the page shows. Whatever else
   comes back (a password is asked for, a proxy, another program, a fault), the entry waits with the
   reason; it is sent again under the same key, and what does not lean on it goes on before it.

   An entry may lean on an earlier one that is still on its way (`after`: its key): once that one is
   saved, the event that the server gave it is filled in as `fill` says. The images of a batch learn
   theirs from the batches and undos of the same page (`of`) before it.

   An entry belongs to the library in which it was made and to the person who made it, and is sent
   only to that library and only while they score there.

   `browser` is what the outbox needs of one: store, locks, fetch, now, setTimeout, clearTimeout. */
"use strict";

/* --- where entries are kept ---------------------------------------------------------------- */

const WAITING = "tastemaker:outbox-2:"; // which tabs that were opened before an upgrade leave alone
const FORMER = "tastemaker:outbox:"; // of versions that did not know of libraries

/* Every entry of this browser. `storage` is its localStorage; null where site data is blocked: then,
   and for what it does not take (a full disk), they are kept by this page alone. */
function makeStore(storage) {
  const unstored = new Map();

  function read(name) {
    if (!name.startsWith(WAITING) && !name.startsWith(FORMER)) return null;
    const text = storage.getItem(name);
    if (text === null) return null;
    try {
      const entry = JSON.parse(text);
      if (typeof entry?.key === "string") return entry;
    } catch { /* not one of ours, or half of one */ }
    return { key: name, unreadable: text, at: 0 };
  }

  /* Oldest first, of whatever library, project and person. */
  function all() {
    const entries = [...unstored.values()];
    try {
      for (let at = 0; at < (storage?.length ?? 0); at += 1) {
        const entry = read(storage.key(at));
        if (entry && !unstored.has(entry.key)) entries.push(entry);
      }
    } catch { /* blocked meanwhile */ }
    return entries.sort((a, b) => a.at - b.at);
  }

  function put(entry) {
    try {
      if (!storage) throw new Error("site data is blocked");
      storage.setItem(WAITING + entry.key, JSON.stringify(entry));
      unstored.delete(entry.key);
    } catch { unstored.set(entry.key, entry); }
  }

  function remove(entry) {
    unstored.delete(entry.key);
    try {
      for (const name of [WAITING + entry.key, FORMER + entry.key, entry.key]) storage?.removeItem(name);
    } catch { /* blocked meanwhile */ }
  }

  return { all, put, remove, blocked: () => storage === null, onlyHere: () => unstored.size };
}

/* An entry goes without being saved: what leans on it knows what was known before, and what would
   take it back has nothing to do. */
function drop(store, entry) {
  store.remove(entry);
  for (const later of store.all().filter((other) => other.after === entry.key)) {
    if (isUndo(later)) store.remove(later);
    else if (entry.after) store.put({ ...later, after: entry.after });
    else store.put({ ...later, after: undefined, ...(later.fill && { [later.fill]: entry.expected }) });
  }
}

/* --- what an answer means ------------------------------------------------------------------ */

const isUndo = (entry) => entry.kind === "undo" || entry.kind === "undo-batch";
const imagesOf = (entry) => (
  entry.kind === "batch" ? entry.images.map((one) => one.image_id) : entry.image_id === undefined ? [] : [entry.image_id]);

/* What was said of images, as the tiles show it: a score, or of a sweep “≥ 5” or “< 5”. */
const inWords = (value, sweep) => (sweep ? `${{ at_least: "≥", below: "<" }[sweep]} ${value}` : `${value}`);

/* Where an entry goes and what the server is sent of it. */
function requestOf(entry) {
  const { kind, key, value, event_id } = entry;
  if (kind === "undo") return ["undo", { key, event_id }];
  if (kind === "batch") return ["batches", { images: entry.images, value, key, ...(entry.sweep && { sweep: entry.sweep }) }];
  if (kind === "undo-batch") return ["batches/undo", { key }];
  const fields = ["key", "kind", "value", "note", "image_id", "sha256", "queue", "offer", "origin", "reason", "expected"];
  return ["scores", Object.fromEntries(fields.filter((field) => field in entry).map((field) => [field, entry[field]]))];
}

/* What the server's answer means for an entry, as `verdict` and, unless it is saved, `text` and
   `hint`:

   saved     this program says that this very entry is on the disk
   refused   it says that this very entry is overtaken, for good
   held      it cannot save this entry now; that says nothing of others
   unclear   not this program's answer, or a fault of its own; others may fare better
   busy      nothing can be saved now

   `response` is null without an answer; `answer` is its JSON, null where it is none. */
function verdictOn(entry, response, answer) {
  if (!response) return { verdict: "busy", text: "The server does not answer.", hint: "It is tried again by itself." };
  const { ok, status } = response, said = answer !== null && typeof answer === "object" ? answer : {};
  const library = response.headers?.get("Tastemaker-Library") ?? said.library ?? null;
  const its = { text: said.error ?? `The server answers with ${status}.`, hint: said.hint ?? "" };
  if (library === entry.library && library !== null) {
    if (ok) return isReceipt(entry, said) ? { verdict: "saved" } : {
      verdict: "unclear", text: "The server's answer is not the one that this page waits for.", hint: "Reload the page.",
    };
    if (said.code === "somebody-else") return {
      verdict: "busy", elsewhere: true, ...its, hint: `${its.hint} What you said waits here until ${entry.name} scores again.`,
    };
    if (status === 401) return { verdict: "busy", signIn: true, ...its, hint: "Sign in; the scores wait in this browser." };
    if ([403, 429, 503, 507].includes(status)) return { verdict: "busy", ...its };
    if (status >= 500) return { verdict: "unclear", ...its };
    const about = said.key === entry.key;
    const overtaken = said.code === "stale" && imagesOf(entry).includes(said.image_id);
    if (about && (overtaken || (said.code === "no-undo" && isUndo(entry)))) return { verdict: "refused", ...its };
    return { verdict: "held", ...its };
  }
  if (library !== null) return {
    verdict: "busy", elsewhere: true, text: "Another library is served at this address by now.",
    hint: "Nothing is lost: this is sent once its own library is served here again. Reload the page to work in that one.",
  };
  if (status === 413) return {
    verdict: "unclear", text: "A proxy in between takes no request of this size (413).",
    hint: "Let it take more (nginx: client_max_body_size), or choose fewer images at once.",
  };
  const stops = [401, 407, 429, 502, 503, 504].includes(status);
  return {
    verdict: stops ? "busy" : "unclear",
    text: `What answers at this address is not this Tastemaker, or a proxy before it (${status}).`,
    hint: "Start it there again, or look at the proxy; if Tastemaker was upgraded, reload the page.",
  };
}

/* Whether an answer of the right library is the receipt of this entry and no other. */
function isReceipt(entry, said) {
  if (said.saved !== true || said.library !== entry.library || said.key !== entry.key) return false;
  if (entry.kind === "batch") return imagesOf(entry).every((image) => image in (said.events ?? {}) || image in (said.refused ?? {}));
  if (isUndo(entry)) return true;
  return said.image_id === entry.image_id && typeof said.event_id === "number";
}

/* Whether an entry can be sent only after an earlier one: it names it, or speaks of the same image;
   an undo takes back the newest there is, so what came after it waits for it. */
function leansOn(entry, earlier) {
  if (entry.after === earlier.key) return true;
  if (isUndo(earlier)) return !earlier.held;
  return !isUndo(entry) && imagesOf(entry).some((image) => imagesOf(earlier).includes(image));
}

/* --- sending ------------------------------------------------------------------------------- */

function makeOutbox({ library, project, person, browser, saved, refused, changed, warn, held = () => {} }) {
  const LATE = 400, FIRST_PAUSE = 500, LONGEST_PAUSE = 10000, HELD_PAUSE = 60000, GIVE_UP = 30000;
  const UNCLEAR = 3; // so many in a row, and the next ones are not tried either
  const store = browser.store ?? makeStore(browser.storage);
  const mine = (entry) => entry.library === library && entry.person === person.id;
  const notBefore = new Map(); // of held entries: when they are tried again
  const unlucky = new Set(); // whose answer was unclear: tried after the others
  let last = 0, sending = false, pause = FIRST_PAUSE, again = 0;
  let elsewhere = false; // somebody else, or another library, has this address by now
  let trouble = null; // why nothing is saved now: { text, hint, signIn }

  const ofProject = () => store.all().filter((entry) => entry.project === project && !entry.unreadable);
  const all = () => ofProject().filter(mine);

  /* The images that an entry waits for. */
  const images = () => all().flatMap(imagesOf);

  /* How many may be saved soon: the others wait for something to change. */
  const moving = () => all().filter((entry) => !entry.held).length;

  const why = () => trouble ?? all().find((entry) => entry.held)?.held ?? null;

  /* The entry brings its `key`, unlike any other. */
  function put(entry) {
    last = Math.max(last + 1, browser.now());
    store.put({ ...entry, library, project, person: person.id, name: person.name, at: last });
  }

  async function send() {
    browser.clearTimeout(again);
    if (sending) return;
    sending = true;
    try {
      let answered = true;
      while (answered && next(new Set())) answered = await inTurn(drain); // one may have come meanwhile
    } finally { // also where the page could not show what was saved: the others still go
      sending = false;
      if (all().length) {
        pause = moving() || trouble ? Math.min(2 * pause, LONGEST_PAUSE) : HELD_PAUSE;
        again = browser.setTimeout(send, pause);
      }
    }
    changed(all().length, false, why());
  }

  /* Try everything again now, also what was refused a moment ago. */
  function retry() {
    notBefore.clear();
    pause = FIRST_PAUSE;
    return send();
  }

  /* Two tabs send the same entries; taking turns, they keep the order. Where there are no locks (an
     address without https, blocked site data) both send, and the keys keep it to one event each. */
  async function inTurn(act) {
    let begun = false;
    try {
      if (browser.locks) return await browser.locks.request(WAITING + project, () => { begun = true; return act(); });
    } catch (error) { if (begun) throw error; }
    return act();
  }

  /* Send until none is left that can go (true), or until it is clear that nothing goes now. */
  async function drain() {
    const failed = new Set();
    let unclear = 0;
    for (let entry; (entry = next(failed)); ) {
      const late = browser.setTimeout(() => changed(all().length, true, why()), LATE);
      const { verdict, answer, status, ...reason } = await post(entry);
      browser.clearTimeout(late);
      if (verdict === "busy" || verdict === "unclear") {
        // Somebody must do something; where to sign in stands beside the keys.
        const grave = reason.elsewhere || status === 403 || (status === 401 && !reason.signIn);
        if (grave && trouble?.text !== reason.text) warn(reason.text, reason.hint);
        elsewhere = Boolean(reason.elsewhere);
        trouble = { text: reason.text, hint: reason.hint, signIn: Boolean(reason.signIn) };
        changed(all().length, true, why());
        unlucky.add(entry.key);
        failed.add(entry.key);
        if (verdict === "unclear" && ++unclear < UNCLEAR) continue;
        if (verdict === "busy") unlucky.clear(); // the order is kept where it is not this entry's fault
        return false;
      }
      trouble = null;
      elsewhere = false;
      unclear = 0;
      unlucky.delete(entry.key);
      if (verdict === "held") {
        failed.add(entry.key);
        hold(entry, reason);
        continue;
      }
      pause = FIRST_PAUSE;
      if (verdict === "saved") await onSaved(entry, answer);
      else {
        drop(store, entry);
        await refused(entry, status, answer);
      }
    }
    return failed.size === 0 || trouble === null;
  }

  /* The first entry that may be sent; those of an unclear answer after the others. */
  function next(failed) {
    const waiting = withoutTakenBack();
    let second = null;
    for (const [at, entry] of waiting.entries()) {
      if (failed.has(entry.key) || (notBefore.get(entry.key) ?? 0) > browser.now()) continue;
      if (waiting.slice(0, at).some((earlier) => leansOn(entry, earlier))) continue;
      if (!unlucky.has(entry.key)) return entry;
      second ??= entry;
    }
    return second;
  }

  /* A score that cannot be saved, and was taken back meanwhile, goes with its undo: neither is for
     the server to know. Of one that was saved in part, the undo takes that part back. */
  function withoutTakenBack() {
    for (;;) {
      const waiting = all();
      const stuck = (entry, at) => entry.held
        || (!entry.sent && waiting.slice(0, at).some((earlier) => earlier.held && leansOn(entry, earlier)));
      const undone = new Set(waiting.filter(isUndo).map((undo) => undo.after));
      const score = waiting.findLast((entry, at) => undone.has(entry.key) && stuck(entry, at));
      if (!score) return waiting;
      if (!score.partly) { drop(store, score); continue; }
      store.remove(score);
      for (const undo of waiting.filter((entry) => entry.after === score.key)) store.put({ ...undo, after: undefined });
    }
  }

  function hold(entry, { text, hint }) {
    notBefore.set(entry.key, browser.now() + HELD_PAUSE);
    const known = entry.held?.text === text;
    store.put({ ...entry, held: { text, hint } });
    if (!known) held(entry, { text, hint });
    changed(all().length, true, why());
  }

  async function onSaved(entry, answer) {
    const overtaken = new Set((answer.stale ?? []).map(String));
    const left = entry.kind === "batch" ? entry.images.filter(({ image_id }) => (
      image_id in (answer.refused ?? {}) && !(image_id in answer.events) && !overtaken.has(String(image_id)))) : [];
    store.remove(entry);
    if (left.length) { // those images wait, the others are saved
      const { [left[0].image_id]: text } = answer.refused;
      hold({ ...entry, images: left, partly: true }, { text, hint: "The other images of this key are saved." });
    }
    const told = entry.kind === "batch"
      ? { ...answer, refused: Object.fromEntries(Object.entries(answer.refused ?? {}).filter(([image]) => overtaken.has(image))) }
      : answer;
    if (Object.keys(answer.events ?? { 0: 0 }).length) {
      fillIn(entry, answer.events ?? {});
      if (!left.length) lean(entry, answer.event_id);
    } else if (!left.length) drop(store, entry); // a batch of which no image was saved
    await saved(entry, told);
  }

  function lean(entry, event_id) {
    for (const later of all().filter((other) => other.after === entry.key)) {
      store.put({ ...later, after: undefined, ...(later.fill && { [later.fill]: event_id }) });
    }
  }

  function fillIn(entry, events) {
    const later = all().filter((other) => other.kind === "batch" && entry.of && other.of === entry.of);
    for (const batch of later) {
      const known = batch.images.map((one) => ({ ...one, expected: events[one.image_id] ?? one.expected }));
      store.put({ ...batch, images: known });
    }
  }

  /* What comes back for an entry: `verdictOn`, with the answer and its status. */
  async function post(entry) {
    if (!entry.sent && !isUndo(entry)) store.put(entry = { ...entry, sent: true });
    const [path, body] = requestOf(entry);
    const giveUp = new AbortController(), timer = browser.setTimeout(() => giveUp.abort(), GIVE_UP);
    let response = null, answer = null;
    try {
      response = await browser.fetch(`/api/v1/projects/${project}/${path}`, {
        method: "POST",
        headers: { "Content-Type": "application/json", "Tastemaker-Library": library, ...(person.id && { "Tastemaker-Opened-For": person.id }) },
        body: JSON.stringify(body), signal: giveUp.signal,
      });
      answer = await response.json();
    } catch { /* no answer, or no JSON */ }
    browser.clearTimeout(timer);
    return { ...verdictOn(entry, response, answer), answer, status: response?.status };
  }

  const others = ofProject().filter((entry) => entry.library === library && !mine(entry));
  if (others.length) {
    const name = others[0].name, number = others.filter((entry) => entry.name === name).length;
    warn(`${number} ${number === 1 ? "score" : "scores"} by ${name} ${number === 1 ? "waits" : "wait"} in this browser.`,
      `Nothing is lost: this is sent once ${name} scores here again (People, or signing in).`);
  }
  return { all, images, moving, why, put, send, retry, elsewhere: () => elsewhere };
}

/* --- of this page -------------------------------------------------------------------------- */

/* What an outbox needs, in a browser. Reading `localStorage` throws where site data is blocked. */
function thisBrowser() {
  let storage = null;
  try {
    storage = localStorage;
    storage.getItem(WAITING);
  } catch { storage = null; }
  return {
    store: makeStore(storage), locks: navigator.locks, now: Date.now,
    fetch: (path, ...how) => fetch(at(path), ...how),
    setTimeout: (act, wait) => setTimeout(act, wait), clearTimeout: (timer) => clearTimeout(timer),
  };
}

const own = typeof document === "object" ? { library: document.body.dataset.library, browser: thisBrowser(), outbox: null } : null;

/* The outbox of a page: entries outlive it, and are sent whenever the connection comes back. */
function pageOutbox(options) {
  const { library, browser } = own;
  const tell = (...change) => {
    options.changed(...change);
    document.dispatchEvent(new Event("outbox"));
  };
  const outbox = makeOutbox({ library, browser, warn, ...options, changed: tell });
  own.outbox = { ...outbox, project: options.project, person: options.person.id };
  for (const moment of ["online", "pageshow"]) addEventListener(moment, outbox.retry);
  return outbox;
}

/* Where to sign in, and then back to this page; in a tab beside it where scores are in this one alone. */
function signInLink() {
  const link = document.createElement("a"), here = location.pathname.slice(at("").length) + location.search;
  Object.assign(link, { className: "button", textContent: "Sign in", href: at(`/login?next=${encodeURIComponent(here)}`) });
  if (own.browser.store.onlyHere()) link.target = "_blank";
  return link;
}

/* Beside the keys: how many `left` wait, `why`, and where to look at them or to sign in. */
function tellWaiting(note, left, what, why) {
  const text = document.createElement("span"), look = document.createElement("button");
  const number = `${left} ${what}${left === 1 ? "" : "s"} waiting to be saved; nothing is lost.`;
  text.textContent = why ? `${number} ${why.text}` : number;
  text.title = why ? `${why.text} ${why.hint}` : "";
  Object.assign(look, { type: "button", className: "quiet", textContent: "Look" });
  look.dataset.dialog = "waiting";
  if (note.firstElementChild?.textContent !== text.textContent) note.replaceChildren(text, ...(why?.signIn ? [signInLink()] : []), look);
  note.classList.toggle("late", left > 0);
}

/* Said only where it is so: of this browser, not of this page alone. */
function everythingSaved() {
  const left = own.browser.store.all().length;
  return left ? `Saved. ${left} more ${left === 1 ? "waits" : "wait"} in this browser, listed under “Waiting”.` : "Everything is saved.";
}

if (typeof module === "object") module.exports = { makeOutbox, makeStore, drop, isUndo, requestOf, verdictOn, leansOn };
