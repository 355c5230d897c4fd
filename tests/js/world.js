/* A small world for the scripts: a storage, a clock, a server that keeps the rules of a score, and a
   page without a picture that carries out what the scoring session wants. */
"use strict";

const LIBRARY = "the-library";

const { actionOf } = require("../../static/keys.js");
const { makeOutbox } = require("../../static/outbox.js");
const { ScoringSession } = require("../../static/scoring-session.js");

/* Like localStorage, whose order is nobody's to rely on: here it is the last name first. */
class Storage {
  #items = new Map();
  full = false; // whether it takes nothing more

  get length() { return this.#items.size; }
  key(index) { return [...this.#items.keys()].sort().reverse()[index] ?? null; }
  getItem(name) { return this.#items.get(name) ?? null; }
  removeItem(name) { this.#items.delete(name); }

  setItem(name, text) {
    if (this.full) throw new Error("QuotaExceededError");
    this.#items.set(name, String(text));
  }
}

/* A clock that stands still unless it is put forward. */
class Clock {
  #timers = new Map();
  #last = 0;
  time = 1000;

  now = () => this.time;
  setTimeout = (act, pause) => {
    this.#timers.set(this.#last += 1, { act, at: this.time + pause });
    return this.#last;
  };
  clearTimeout = (timer) => { this.#timers.delete(timer); };

  forward(milliseconds) {
    this.time += milliseconds;
    for (const [timer, { act, at }] of [...this.#timers]) {
      if (at > this.time || !this.#timers.delete(timer)) continue;
      act();
    }
  }
}

/* One project and one person, with images 1 … n, under the rules that `tastemaker.scores` keeps. */
class Server {
  events = []; // { id, image_id, kind, value, key, undoes }
  requests = []; // [path, body] of every POST that came through
  removed = new Set(); // images taken out of the project
  overtaken = new Set(); // keys that were answered with a newer score
  online = true;
  losing = false; // whether answers get lost on the way back
  failing = null; // [status, answer] of a server that cannot answer
  #holding = false; // whether answers take long
  #held = []; // those on their way

  constructor(images) { this.images = Array.from({ length: images }, (_, at) => at + 1); }

  /* --- the rules */

  standing() {
    const undone = new Set(this.events.map((event) => event.undoes));
    return this.events.filter((event) => event.kind !== "undo" && !undone.has(event.id));
  }

  newest(image_id) { return this.standing().findLast((event) => event.image_id === image_id); }

  /* The score or skip of an image that counts. */
  decision(image_id) {
    const event = this.standing().findLast((one) => one.image_id === image_id && one.kind !== "flag");
    return event && { kind: event.kind, value: event.value };
  }

  card(image_id) {
    const event_id = this.newest(image_id)?.id ?? 0;
    return {
      image_id, event_id, name: `picture-${image_id}`, view: `/images/${image_id}/view`,
      offer: `offer of ${image_id}`, reason: `reason ${image_id}`, blind: image_id % 5 === 0,
    };
  }

  queue({ n, exclude = [] }) {
    const left = this.images.filter((id) => !exclude.includes(id) && !this.removed.has(id) && !this.decision(id));
    return left.slice(0, n).map((id) => this.card(id));
  }

  history({ before, n }) {
    const events = this.standing().filter((event) => event.kind !== "flag" && (!before || event.id < before));
    const rows = new Map();
    for (const { id, image_id, kind, value } of events.reverse().slice(0, n)) {
      if (!rows.has(image_id)) rows.set(image_id, { event_id: id, kind, value, card: this.card(image_id) });
    }
    return [...rows.values()];
  }

  /* A score made elsewhere: another tab, another program. */
  append(event) {
    this.events.push({ id: this.events.length + 1, value: null, ...event });
    return this.events.at(-1);
  }

  #score({ key, image_id, kind, value, expected }) {
    const before = this.events.find((event) => event.key === key);
    const receipt = { saved: true, library: LIBRARY, key };
    if (before) return [200, { ...receipt, event_id: before.id, image_id }];
    if (this.removed.has(image_id)) return [404, { error: "This image was taken out of the project meanwhile." }];
    const newest = this.newest(image_id);
    if ((newest?.id ?? 0) !== expected) this.overtaken.add(key);
    if ((newest?.id ?? 0) !== expected) return [409, { code: "stale", image_id, key, error: `${newest?.value} there, ${value} here`, hint: "" }];
    return [200, { ...receipt, event_id: this.append({ key, image_id, kind, value }).id, image_id }];
  }

  #undo({ key, event_id }) {
    const before = this.events.find((event) => event.key === key);
    const receipt = { saved: true, library: LIBRARY, key };
    if (before) return [200, { ...receipt, event_id: before.id, card: this.card(before.image_id) }];
    const newest = this.standing().at(-1);
    if (!newest) return [404, { code: "no-undo", key, error: "Nothing more to take back." }];
    if (event_id && newest.id !== event_id) return [409, { code: "no-undo", key, error: "Something newer was scored since." }];
    const { id } = this.append({ key, image_id: newest.image_id, kind: "undo", undoes: newest.id });
    return [200, { ...receipt, event_id: id, card: this.card(newest.image_id) }];
  }

  /* --- on the line */

  fetch = (url, { body }) => {
    if (!this.online) return Promise.reject(new TypeError("not reachable"));
    const path = url.replace("/api/v1/projects/1/", ""), sent = JSON.parse(body);
    this.requests.push([path, sent]);
    const [status, answer] = this.failing ?? (path === "undo" ? this.#undo(sent) : this.#score(sent));
    if (this.losing) return Promise.reject(new TypeError("the answer was lost"));
    return this.#arrives(response(status, answer));
  };

  get(answer) { return this.online ? this.#arrives(answer) : Promise.resolve(null); }

  /* From now on, answers wait for `deliver`. */
  hold() { this.#holding = true; }

  /* From now on, answers arrive at once; those on their way still wait. */
  rest() { this.#holding = false; }

  /* The oldest answer that waits arrives. */
  deliver() { this.#held.shift()?.(); }

  deliverAll() {
    this.rest();
    while (this.#held.length) this.deliver();
  }

  #arrives(answer) {
    if (!this.#holding) return Promise.resolve(answer);
    return new Promise((resolve) => { this.#held.push(() => resolve(answer)); });
  }
}

/* An answer of the program that keeps the library; `library` null: of another program. */
const response = (status, answer, library = LIBRARY) => ({
  status, ok: status < 400, headers: new Map(library ? [["Tastemaker-Library", library]] : []),
  json: async () => { if (answer === undefined) throw new SyntaxError("no JSON"); return answer; },
});

let keys = 0;

/* The page of one person. What is on its stage counts as seen once `see` is called. */
class Page {
  stage = null; // the card whose picture is on the screen
  seen = null; // its image, once it was there long enough to be judged
  announced = [];
  warned = [];
  ignored = 0;
  refreshed = 0;
  reloads = 0;
  note = { left: 0, visible: false };
  opened = []; // parts of the page
  wishes = []; // [effect, argument] of what was fetched

  constructor(server, { storage = new Storage(), clock = new Clock(), queue = "mixed", ahead = 4, person = { id: 1, name: "Ada" }, showFirst = false } = {}) {
    Object.assign(this, { server, storage, clock });
    const browser = { storage, locks: null, fetch: server.fetch, ...clock };
    this.outbox = makeOutbox({
      library: LIBRARY, project: 1, person, browser, warn: (...words) => { this.warned.push(words); },
      saved: (entry, answer) => this.#run(this.session.saved(entry, answer)),
      refused: (entry, status, answer) => this.#run(this.session.refused(entry, status, answer)),
      held: (entry, reason) => this.#run(this.session.held(entry, reason)),
      changed: (left, late, why) => this.#run(this.session.outboxChanged(left, late, why)),
    });
    this.session = new ScoringSession({
      cards: server.queue({ n: ahead }), queue, outbox: this.outbox, showFirst, images: server.images.length,
      labelled: server.standing().filter((event) => event.kind === "set").length, newKey: () => `key-${keys += 1}`,
    });
    this.#run(this.session.start());
  }

  #effects = {
    clear: () => { this.stage = this.seen = null; },
    show: (card) => { this.stage = card; },
    empty: (text) => { this.text = text; },
    describe: () => { this.about = this.session.about(); },
    keep: (cards) => { this.kept = cards; },
    prepare: () => {},
    prefetch: () => {},
    fetchQueue: async (wish) => {
      this.wishes.push(["queue", wish]);
      this.#run(this.session.queueArrived(await this.server.get(this.server.queue(wish))));
    },
    fetchHistory: async (wish) => {
      this.wishes.push(["history", wish]);
      this.#run(this.session.historyArrived(await this.server.get(this.server.history(wish))));
    },
    fetchCard: async (image_id, why) => {
      const { reason, ...card } = this.server.card(image_id); // there, it is no offer
      this.#run(this.session.cardArrived(await this.server.get({ ...card, offer: "", reason: "" }), why));
    },
    send: () => { this.outbox.send(); },
    saved: () => {},
    waiting: (left, visible, why) => { this.note = { left, visible: left > 0 && visible }; this.why = why; },
    allSaved: () => { this.note = { left: 0, visible: true }; },
    announce: (text) => { this.announced.push(text); },
    warn: (...words) => { this.warned.push(words); },
    ignored: () => { this.ignored += 1; },
    refresh: () => { this.refreshed += 1; },
    reload: () => { this.reloads += 1; },
    zoom: () => { this.opened.push("zoom"); },
    flag: () => { this.opened.push("flag"); },
    help: () => { this.opened.push("help"); },
  };

  #run(effects) {
    return Promise.all(effects.map(([name, ...values]) => this.#effects[name](...values)));
  }

  /* The picture on the stage is painted, and there long enough to be judged. */
  see() {
    const card = this.stage;
    if (!card) return null;
    this.#run(this.session.painted(card));
    this.session.pictureSeen(card);
    return this.seen = card.image_id;
  }

  press(key, more = {}) {
    const action = actionOf({ key, code: "", ...more });
    this.#run(this.session.press(action, more));
  }

  /* A key for the image on the stage, once it was seen. Returns which it was. */
  async judge(key) {
    const image_id = this.see();
    this.press(key);
    await settled();
    return image_id;
  }

  flag(note = "") { this.#run(this.session.flag(note)); }

  entries() { return this.outbox.all(); }
}

/* Everything that can go on without waiting for a clock or for the server has gone on. */
const settled = () => new Promise((resolve) => { setImmediate(resolve); });

/* Numbers from 0 to under 1 that are the same for the same seed: xorshift (Marsaglia 2003). */
function random(seed) {
  let state = (seed + 1) * 2654435761 >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state / 2 ** 32;
  };
}

module.exports = { LIBRARY, response, Clock, Page, Server, Storage, random, settled };
