/* Keyboard scoring with an outbox, and keys on the review cards.
   A score is first put into the outbox (localStorage, with an idempotency key), then the next image
   is shown, then the outbox is sent, oldest first. What the server did not answer for stays there,
   is seen to wait, survives a reload, and is sent again under the same key. */
"use strict";
const byId = (id) => document.getElementById(id);

/* The digit that a key means: both number rows by their key, 10 by minus or Shift+0. */
function scoreOf(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return null;
  if (event.key === "-" || event.code === "NumpadSubtract") return 10;
  if (event.shiftKey) return event.code === "Digit0" || event.code === "Numpad0" ? 10 : null;
  if (/^[0-9]$/.test(event.key)) return Number(event.key);
  const place = /^(?:Digit|Numpad)([0-9])$/.exec(event.code); // rows that give é, à … unshifted
  return place ? Number(place[1]) : null;
}

function takesBack(event) {
  return event.key === "Backspace" || (event.key === "z" && (event.ctrlKey || event.metaKey));
}

function typing(target) {
  return target.closest("input:not([type=checkbox]), textarea, select, [contenteditable]") !== null;
}

/* Something went wrong. It stays until it is closed, or until something said later is saved. */
let toldAt = 0;

function tell(text, hint = "") {
  const box = document.createElement("div"), line = document.createElement("p");
  const strong = document.createElement("strong"), close = document.createElement("button");
  strong.textContent = text;
  line.append(strong, " ", hint);
  Object.assign(close, { className: "quiet", type: "button", textContent: "Close" });
  close.dataset.close = "";
  box.className = "toast wrong";
  box.append(line, close);
  byId("toast").replaceChildren(box);
  toldAt = Date.now();
}

byId("toast").addEventListener("click", (event) => {
  if (event.target.closest("[data-close]")) byId("toast").replaceChildren();
});

/* randomUUID exists only on https and localhost. */
function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/* --- the outbox: one entry of localStorage per thing said, so that tabs cannot lose each other's */
const outbox = {
  prefix: "tastemaker:outbox:",
  all(project) {
    const entries = [];
    for (let i = 0; i < localStorage.length; i++) {
      const name = localStorage.key(i);
      if (name.startsWith(this.prefix)) entries.push(JSON.parse(localStorage.getItem(name)));
    }
    return entries.filter((entry) => entry.project === project).sort((a, b) => a.at - b.at);
  },
  put(entry) { localStorage.setItem(this.prefix + entry.key, JSON.stringify(entry)); },
  remove(entry) { localStorage.removeItem(this.prefix + entry.key); },
};

/* --- the scoring page */

function scoring(page) {
  const project = page.dataset.project, queue = page.dataset.queue;
  const showFirst = page.dataset.showFirst === "1", HOLD = 8, DECODED = 3;
  const SEEN = 120; // milliseconds that a picture is on the screen before a score can mean it
  const api = `/api/v1/projects/${project}`;
  const stage = byId("stage"), note = byId("outbox");
  const pictures = new Map(); // image id → its <img>, decoded or on its way
  const said = []; // what was said since this page was opened, for undo
  const waiting = () => outbox.all(project).filter((entry) => entry.image_id);
  // After a reload, what still waits to be saved must not be asked for again.
  const cards = JSON.parse(page.dataset.cards).filter(
    (card) => !waiting().some((entry) => entry.image_id === card.image_id));
  let last = 0, seeing = 0, sending = false, asking = false, pause = 500;

  function picture(card) {
    if (pictures.has(card.image_id)) return pictures.get(card.image_id);
    const sent = stage.querySelector(`img[data-image="${card.image_id}"]`); // by the server
    const image = sent ?? document.createElement(card.view ? "img" : "p");
    image.dataset.image = card.image_id;
    if (!card.view) image.textContent = "A vector without a picture";
    else if (!sent) Object.assign(image, { alt: card.name, src: card.view });
    image.ready = !card.view ? Promise.resolve(true)
      : image.decode().catch(() => {}).then(() => image.complete && image.naturalWidth > 0);
    pictures.set(card.image_id, image);
    return image;
  }

  function show() {
    const card = cards[0];
    clearTimeout(seeing);
    delete page.dataset.ready;
    if (!card) {
      stage.replaceChildren();
      return outbox.all(project).length || refill(true);
    }
    const image = picture(card);
    stage.replaceChildren(image);
    image.ready.then((ok) => {
      if (cards[0] !== card) return;
      if (!ok) return retry(card);
      requestAnimationFrame(() => {
        seeing = setTimeout(() => { if (cards[0] === card) page.dataset.ready = card.image_id; }, SEEN);
      });
    });
    describe(card);
    cards.slice(1, 1 + DECODED).forEach(picture);
    for (const id of pictures.keys()) {
      if (!cards.slice(0, 1 + DECODED).some((held) => held.image_id === id)) pictures.delete(id);
    }
    refill();
  }

  function retry(card) {
    const sentence = document.createElement("p");
    sentence.textContent = "This picture cannot be loaded. Trying again; you can skip it.";
    sentence.dataset.image = card.image_id;
    stage.replaceChildren(sentence);
    setTimeout(() => {
      pictures.delete(card.image_id);
      if (cards[0] === card) show();
    }, 2000);
  }

  function describe(card) {
    byId("this-name").textContent = card.name;
    byId("this-size").textContent = card.width ? `${card.width} × ${card.height}` : "";
    if (!showFirst) return;
    byId("this-said").textContent = prediction(card);
    byId("this-reason").textContent = card.reason;
  }

  function prediction(card) {
    if (card.prediction === null) return "no prediction yet";
    const spread = card.uncertainty === null ? "" : ` ± ${Math.round(100 * card.uncertainty)}`;
    const by = card.predicted_by === "live model" ? "the live model" : card.predicted_by;
    return `predicted ${Math.round(100 * card.prediction)} %${spread}${by ? ` by ${by}` : ""}`;
  }

  /* Blind first: what the model thought, and why the image was shown, come after the key. */
  function showPrevious() {
    byId("previous").hidden = said.length === 0;
    if (said.length === 0) return;
    const { card, value } = said.at(-1);
    const thumb = byId("previous-picture"), chip = document.createElement("span");
    thumb.hidden = !card.thumb;
    if (card.thumb) thumb.src = card.thumb;
    Object.assign(chip, { className: `chip r${value}`, textContent: value });
    byId("previous-score").replaceChildren(...(value === null ? ["skipped"] : [chip, " your score"]));
    byId("previous-said").textContent = prediction(card);
    byId("previous-reason").textContent = card.reason;
  }

  /* Keep some cards in hand. Without any left, and nothing more to score, the server's page says
     what to do next. */
  async function refill(last = false) {
    if (asking || cards.length >= HOLD) return;
    asking = true;
    try {
      const held = [...cards, ...waiting()].map((card) => card.image_id).join(",");
      const answer = await fetch(`${api}/queue?queue=${queue}&n=${HOLD}&exclude=${held}`);
      if (!answer.ok) return;
      const taken = new Set([...cards, ...said.map((s) => s.card)].map((card) => card.image_id));
      const fresh = (await answer.json()).filter((card) => !taken.has(card.image_id));
      const wasEmpty = cards.length === 0;
      cards.push(...fresh);
      cards.slice(1, 1 + DECODED).forEach(picture);
      if (wasEmpty && fresh.length) show();
      else if (last && fresh.length === 0) location.reload();
    } catch { /* not reachable: the outbox says so */ } finally { asking = false; }
  }

  function put(entry) {
    const key = newKey();
    last = Math.max(last + 1, Date.now());
    outbox.put({ ...entry, project, key, at: last });
    return key;
  }

  function say(kind, value) {
    const card = cards[0];
    // Only a picture that was there to be seen can be scored; any can be skipped.
    if (!card || (kind === "set" && page.dataset.ready !== String(card.image_id))) return ignore();
    const { image_id, event_id: expected, origin, reason } = card;
    const key = put({ kind, value, image_id, expected, queue, origin, reason });
    said.push({ card, value, key });
    cards.shift();
    showPrevious();
    show();
    send();
  }

  /* A key that came too early says so, or it would look lost. */
  function ignore() {
    byId("scale").classList.add("ignored");
    setTimeout(() => byId("scale").classList.remove("ignored"), SEEN);
  }

  function undo() {
    const back = said.pop();
    put({ kind: "undo", of: back?.key, event_id: back?.event_id, back: back?.card.image_id });
    showPrevious();
    if (back) bring(back.card);
    send();
  }

  /* Put an image in front, and take it from wherever else it waited. */
  function bring(card) {
    withdraw(card.image_id);
    cards.unshift(card);
    show();
  }

  function withdraw(image_id) {
    const at = cards.findIndex((card) => card.image_id === image_id);
    if (at >= 0) cards.splice(at, 1);
    return at >= 0;
  }

  /* Send the outbox, oldest first; what is refused for good is dropped and told. */
  async function send() {
    if (sending) return;
    sending = true;
    for (let entry; (entry = outbox.all(project)[0]); ) {
      const waiting = setTimeout(count, 400); // a quick answer needs no notice
      const done = await post(entry);
      clearTimeout(waiting);
      if (!done) break;
      outbox.remove(entry);
      pause = 500;
    }
    sending = false;
    count();
    if (outbox.all(project).length) setTimeout(send, pause = Math.min(2 * pause, 10000));
    else if (cards.length === 0) refill(true);
  }

  /* Whether the entry is settled: saved, or refused for good. */
  async function post(entry) {
    const undoing = entry.kind === "undo";
    const { project, at, of, back, event_id, ...rest } = entry;
    const body = undoing ? { key: entry.key, event_id } : rest;
    let answer, told;
    try {
      answer = await fetch(`${api}/${undoing ? "undo" : "scores"}`, {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
      });
      told = await answer.json();
    } catch { return false; }
    if (answer.status === 401) tell(told.error, "Sign in in another tab; the scores wait here.");
    if (answer.status === 401 || answer.status === 429 || answer.status >= 500) return false;
    if (answer.ok) settled(entry, told);
    else {
      tell(told.error, told.hint);
      await (undoing ? keep(entry) : forget(entry, answer.status === 409));
    }
    return true;
  }

  function settled(entry, told) {
    if (entry.kind !== "undo") {
      const mine = said.find((s) => s.key === entry.key);
      if (mine) mine.event_id = told.event_id;
      for (const later of outbox.all(project)) {
        if (later.of === entry.key) outbox.put({ ...later, event_id: told.event_id });
      }
    } else if (!entry.of && told.card && !cards.some((c) => c.image_id === told.image_id)) {
      bring({ ...told.card, origin: "queue" });
    }
    if (entry.at > toldAt) byId("toast").querySelector(".wrong")?.remove();
    document.body.dispatchEvent(new Event("scored"));
  }

  /* A refused score needs no undo. Where another one was there before it, the image comes back,
     knowing of that one, so that it can be scored again at once. */
  async function forget(entry, again) {
    const at = said.findIndex((s) => s.key === entry.key);
    if (at >= 0) said.splice(at, 1);
    outbox.all(project).filter((later) => later.of === entry.key).forEach((later) => outbox.remove(later));
    showPrevious();
    if (!again) return;
    try {
      const answer = await fetch(`${api}/images/${entry.image_id}`);
      const { origin, reason } = entry;
      if (answer.ok) bring({ ...(await answer.json()), origin, reason });
    } catch { /* not reachable: the image comes again by the queue */ }
  }

  /* A refused undo: its score stands, so the image that came back for it goes again. What this
     page remembers is not the newest any more; the next undo leaves that to the server. */
  function keep(entry) {
    said.length = 0;
    showPrevious();
    const shown = cards[0]?.image_id === entry.back;
    if (entry.back && withdraw(entry.back) && shown) show();
  }

  function count() {
    const n = outbox.all(project).length;
    note.hidden = n === 0;
    note.textContent = n === 0 ? ""
      : `${n} ${n === 1 ? "score" : "scores"} waiting to be saved; nothing is lost.`;
  }

  document.addEventListener("keydown", (event) => {
    if (event.repeat || typing(event.target)) return;
    const value = scoreOf(event);
    const onControl = event.target.closest("a, button, summary") !== null;
    if (value !== null) say("set", value);
    else if (takesBack(event)) undo();
    else if (event.key === " " && !onControl) say("skip", null);
    else return;
    event.preventDefault();
  });
  byId("scale").addEventListener("submit", (event) => {
    event.preventDefault();
    say("set", Number(event.submitter.value));
  });
  for (const [form, act] of [["skip", () => say("skip", null)], ["undo", undo]]) {
    byId(form).addEventListener("submit", (event) => { event.preventDefault(); act(); });
  }
  for (const moment of ["online", "pageshow"]) addEventListener(moment, send);
  show();
  count();
}

/* --- the review page: arrows walk over the cards, a digit corrects the one in focus */

function reviewing(grid) {
  const step = (cards, at, key) => {
    if (key === "ArrowRight") return at + 1;
    if (key === "ArrowLeft") return at - 1;
    const columns = cards.filter((card) => card.offsetTop === cards[0].offsetTop).length;
    return key === "ArrowDown" ? at + columns : key === "ArrowUp" ? at - columns : null;
  };
  document.addEventListener("keydown", (event) => {
    if (typing(event.target) || (event.repeat && !event.key.startsWith("Arrow"))) return;
    const cards = [...grid.querySelectorAll("[data-card]")];
    const card = event.target.closest("[data-card]");
    const value = scoreOf(event);
    if (card && value !== null) card.querySelector(`button[value="${value}"]`).click();
    else if (takesBack(event)) byId("toast").querySelector("[data-undo] button")?.click();
    else {
      const next = step(cards, card ? cards.indexOf(card) : -1, event.key);
      if (next === null || event.ctrlKey || event.metaKey || event.altKey) return;
      (cards[card ? next : 0] ?? card)?.focus();
    }
    event.preventDefault();
  });
}

if (byId("score")) scoring(byId("score"));
if (byId("cards")) reviewing(byId("cards"));
