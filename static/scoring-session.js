/* Scoring one image after the other, without a page: what is on the stage, what comes next, what
   was scored before, what a key does, what the server's answers change.

   Every method is an event: it changes the state, puts scores into the outbox, and returns the
   effects that the page is to carry out, in order, each as [name, ...arguments]:

   clear               a new image is due: zoom out; no key counts until it was seen
   show card           put its picture on the stage; `pictureSeen`, `pictureMissing`, `painted` follow
   empty text          there is no image to show now
   describe            write what `about()` knows
   keep cards          have these pictures decoded, and forget the others
   prepare cards       have these pictures decoded as well
   prefetch cards      have these pictures in the browser's cache
   fetchQueue wish     get `n` cards without those to `exclude`, then `queueArrived`
   fetchHistory wish   get `n` scores made before the event `before`, then `historyArrived`
   fetchCard image why get the card of this image, then `cardArrived` with it and `why`
   send                send the outbox
   saved at            what was put into the outbox at that time is saved
   waiting number late why
                       how many scores wait to be saved, whether that takes long, and what for
   allSaved            nothing waits any more, after something did
   announce text       say it to a screen reader
   warn text hint      something went wrong
   ignored             the key came too early
   refresh             the figures of the page are out of date
   reload              nothing is left to score: the server's page says what to do next
   zoom, flag, help    open or close this part of the page */
"use strict";

/* What a card brings along that says why it was offered, in words that only the server can sign; it
   goes back with the score. */
const offerOf = ({ offer, reason }) => ({ offer, reason });

class ScoringSession {
  static AHEAD = 3; // pictures that are kept decoded, after the one on the stage
  static BACK = 2; // … and before it
  static LOW = 8; // with fewer cards at hand, more are fetched
  static FULL = 12;
  static HISTORY = 12;
  static REST = "Nothing else is left to score here. What waits to be saved is listed under “Waiting”.";

  /* `cards` are to be scored, the next one first; `labelled` of `images` are scored already; `words`
     says a score, or the class that it stands for. */
  constructor({ cards, labelled, images, queue, showFirst, outbox, newKey, words = String }) {
    Object.assign(this, { ahead: cards, labelled, images, queue, showFirst, outbox, newKey, words });
    this.past = []; // scored or skipped, oldest first
    this.position = null; // which of the past is on the stage; null: the first of those ahead
    this.actions = []; // scores, skips and flags since the page was opened, for undo
    this.seen = null; // the image that was on the stage long enough to be judged
    this.missing = null; // the image that has no picture to judge
    this.oldest = 0; // the first event of the past that was fetched
    this.pastIsComplete = false;
    this.fetchingHistory = false;
    this.stepsDue = 0; // steps back that wait for the history
    this.fetchingQueue = null; // { last }: whether nothing was left when it was asked for
    this.wasLate = false;
    this.lost = false; // whether a score gave way to a newer one since all was saved
  }

  /* The card on the stage. */
  current() {
    return this.position === null ? this.ahead[0] : this.past[this.position];
  }

  start() {
    // After a reload, what still waits to be saved must not be scored again.
    this.outbox.images().forEach((image_id) => this.#withdraw(image_id));
    this.wasLate = this.outbox.all().length > 0;
    return [...this.#show(), ...this.#fetchHistory(), ["send"]];
  }

  /* What is to be read beside the stage. Blind first: the prediction of the image on the stage is
     shown before the key only where the project wants it (`predicts`). */
  about() {
    const card = this.current(), walking = this.position !== null;
    const previous = walking ? card : this.past.at(-1);
    return {
      card, previous, walking,
      back: walking ? this.past.length - this.position : 0,
      decision: walking ? card.decision : null,
      predicts: Boolean(card && this.showFirst && !card.blind),
      scoredHere: this.actions.some((action) => action.card === previous),
    };
  }

  /* --- the stage */

  #show() {
    this.seen = this.missing = null;
    const card = this.current();
    if (card) return [["clear"], ["show", card]];
    if (!this.outbox.moving()) return [["clear"], ["describe"], ...this.#fetchQueue(true)];
    const text = this.outbox.elsewhere() ? "Reload the page to go on scoring here."
      : this.wasLate ? "Not connected. The next image comes when the server answers again." : "";
    return [["clear"], ["describe"], ["empty", text]];
  }

  pictureSeen(card) {
    if (card === this.current()) this.seen = card.image_id;
  }

  pictureMissing(card) {
    if (card === this.current()) this.missing = card.image_id;
  }

  /* The picture is on the screen: now there is time for the words about it and for the next ones. */
  painted(card) {
    if (card !== this.current()) return []; // another one came meanwhile, and with it its own turn
    const { AHEAD, BACK } = ScoringSession;
    const line = [...this.past, ...this.ahead], here = this.position ?? this.past.length;
    const around = [card, ...line.slice(here + 1, here + 1 + AHEAD), ...line.slice(Math.max(0, here - BACK), here)];
    return [["describe"], ["keep", around], ["prefetch", this.ahead], ...this.#fetchQueue()];
  }

  /* --- keys */

  /* A key that is held down repeats nothing but walking. */
  press(action, { repeat = false } = {}) {
    if (repeat && action !== "back" && action !== "forward") return [];
    if (action.startsWith("score-")) return this.score(Number(action.slice(6)));
    if (action === "skip") return this.skip();
    if (action === "undo") return this.undo();
    if (action === "back") return this.back();
    if (action === "forward") return this.forward();
    return [[action]]; // opens a part of the page
  }

  score(value) {
    if (!this.current()) return [];
    return this.#mayJudge() ? this.#decide("set", value) : [["ignored"]];
  }

  /* An image without a picture can be skipped. In the past, to skip is to go on. */
  skip() {
    const card = this.current();
    if (!card) return [];
    if (!this.#mayJudge() && this.missing !== card.image_id) return [["ignored"]];
    return this.position === null ? this.#decide("skip", null) : this.forward();
  }

  flag(note) {
    const card = this.current();
    if (!card) return [];
    this.#put("flag", null, note);
    card.flagged = true;
    return [["describe"], ["send"]];
  }

  /* Only a picture that was there to be seen can be judged. */
  #mayJudge() {
    return this.seen === this.current().image_id;
  }

  #decide(kind, value) {
    const card = this.current(), first = this.position === null;
    this.#put(kind, value);
    card.decision = { kind, value };
    if (first) {
      this.past.push(this.ahead.shift());
      if (kind === "set") this.labelled += 1;
    } else this.#stepForward();
    return [...this.#show(), ["send"]];
  }

  #put(kind, value, note = "") {
    const card = this.current(), { image_id, event_id, pendingKey, decision, flagged, sha256 } = card;
    const key = this.newKey();
    const basis = pendingKey ? { after: pendingKey, fill: "expected" } : { expected: event_id };
    const picture = { sha256, title: card.name, thumb: card.thumb }; // to be told from others while it waits
    if (this.words !== String && kind === "set") picture.said = this.words(value);
    this.outbox.put({ key, kind, value, note, image_id, queue: this.queue, ...picture, ...offerOf(card), ...basis });
    const before = { event_id, pendingKey, decision, flagged };
    this.actions.push({ card, key, kind, first: this.position === null, before });
    card.pendingKey = key; // until it is saved
  }

  /* What was scored before this page was opened, only the server knows. */
  undo() {
    const action = this.actions.pop(), key = this.newKey();
    if (!action) {
      this.outbox.put({ key, kind: "undo", blind: true });
      return [["send"]];
    }
    const { card, event_id } = action, first = action.first && action.kind !== "flag";
    const target = event_id ? { event_id } : { after: action.key, fill: "event_id" };
    this.outbox.put({ key, kind: "undo", blind: false, back: first ? card.image_id : undefined, ...target });
    if (action.first && action.kind === "set") this.labelled -= 1;
    Object.assign(card, action.before);
    if (first) this.#bring(card);
    else if (action.kind !== "flag") this.position = this.past.includes(card) ? this.past.indexOf(card) : null;
    return [...this.#show(), ["send"]];
  }

  /* Put an image in front, and take it from wherever else it waited. */
  #bring(card) {
    this.#withdraw(card.image_id);
    this.ahead.unshift(card);
    this.position = null;
  }

  #withdraw(image_id) {
    this.ahead = this.ahead.filter((card) => card.image_id !== image_id);
    const at = this.past.findIndex((card) => card.image_id === image_id);
    if (at < 0) return;
    this.past.splice(at, 1);
    if (at < this.position) this.position -= 1; // what is on the stage stays there
    else if (this.position === this.past.length) this.position = null;
  }

  /* --- the past */

  back() {
    const atTheOldest = (this.position ?? this.past.length) === 0;
    if (!atTheOldest || this.pastIsComplete) return this.#stepBack();
    this.stepsDue += 1;
    return this.#fetchHistory();
  }

  #stepBack() {
    const to = (this.position ?? this.past.length) - 1;
    if (to < 0) return [["announce", "There is nothing before this."]];
    this.position = to;
    const { name, decision } = this.current();
    const score = decision.kind === "set" ? `you said ${this.words(decision.value)}` : "skipped";
    return [
      ...(to <= ScoringSession.BACK ? this.#fetchHistory() : []), ...this.#show(),
      ["announce", `${this.past.length - to} back: ${name}, ${score}.`],
    ];
  }

  forward() {
    if (this.position === null) return [];
    this.#stepForward();
    return [...this.#show(), ...(this.position === null ? [["announce", "Back at the image to score."]] : [])];
  }

  #stepForward() {
    this.position = this.position + 1 < this.past.length ? this.position + 1 : null;
  }

  /* What was scored before this page was opened, a dozen images at a time. */
  #fetchHistory() {
    if (this.fetchingHistory || this.pastIsComplete) return [];
    this.fetchingHistory = true;
    return [["fetchHistory", { before: this.oldest, n: ScoringSession.HISTORY }]];
  }

  /* `rows` are the newest first; null: the server could not be reached. */
  historyArrived(rows) {
    this.fetchingHistory = false;
    if (rows?.length) {
      this.oldest = Math.min(...rows.map((row) => row.event_id));
      const held = new Set([...this.past, ...this.ahead].map((card) => card.image_id));
      const fresh = rows.filter((row) => !held.has(row.card.image_id))
        .map(({ card, kind, value }) => ({ ...card, decision: { kind, value } }));
      if (!fresh.length) return this.#fetchHistory();
      this.past.unshift(...fresh.reverse());
      if (this.position !== null) this.position += fresh.length;
    } else if (rows) this.pastIsComplete = true;
    const effects = this.position === null ? [["prepare", this.past.slice(-ScoringSession.BACK)]] : [];
    for (; this.stepsDue > 0; this.stepsDue -= 1) effects.push(...this.#stepBack());
    return [...effects, ["describe"]];
  }

  /* --- the queue */

  /* Keep some cards at hand. `last`: none is left, and this decides whether there is more to score. */
  #fetchQueue(last = false) {
    const { LOW, FULL } = ScoringSession;
    if (this.ahead.length >= LOW) return [];
    if (this.fetchingQueue) {
      this.fetchingQueue.askAgain ||= last;
      return [];
    }
    this.fetchingQueue = { last, askAgain: false };
    const held = this.ahead.map((card) => card.image_id);
    return [["fetchQueue", { n: FULL, exclude: [...new Set([...held, ...this.outbox.images()])] }]];
  }

  /* `cards`: null where the server could not be reached; the outbox says so. */
  queueArrived(cards) {
    const { last, askAgain } = this.fetchingQueue, wasEmpty = this.ahead.length === 0;
    this.fetchingQueue = null;
    const acted = this.actions.map((action) => action.card), walked = this.position === null ? [] : this.past;
    const held = new Set([...[...this.ahead, ...acted, ...walked].map((card) => card.image_id), ...this.outbox.images()]);
    const fresh = (cards ?? []).filter((card) => !held.has(card.image_id));
    if (!this.current() && !fresh.length && askAgain) return this.#fetchQueue(true);
    if (!cards) return [];
    this.ahead.push(...fresh);
    const again = new Set(fresh.map((card) => card.image_id));
    this.past = this.past.filter((card) => !again.has(card.image_id)); // some were at hand as well
    const prefetch = ["prefetch", this.ahead];
    if (!this.current() && last) return this.outbox.all().length ? [["empty", ScoringSession.REST]] : [["reload"]];
    if (this.position !== null) return [prefetch];
    if (wasEmpty && fresh.length) return [...this.#show(), prefetch];
    return [["prepare", this.ahead.slice(1, 1 + ScoringSession.AHEAD)], prefetch];
  }

  /* --- what the server answers to the outbox */

  saved(entry, answer) {
    const effects = [["saved", entry.at]];
    for (const card of [...this.ahead, ...this.past, ...this.actions.map((action) => action.before)]) {
      if (card.pendingKey === entry.key) Object.assign(card, { event_id: answer.event_id, pendingKey: undefined });
    }
    const action = this.actions.find((one) => one.key === entry.key);
    if (action) action.event_id = answer.event_id;
    if (answer.events) { // from the page for many
      const left = Object.values(answer.refused ?? {});
      if (left.length) effects.push(["warn", `${left.length} of ${entry.images.length} were left as they are.`, left[0]]);
      effects.push(["announce", entry.kind === "batch" ? `Saved for ${Object.keys(answer.events).length} images.` : "Taken back."]);
    } else if (entry.kind === "undo") {
      if (entry.blind) {
        this.#bring(answer.card);
        effects.push(...this.#show());
      }
      effects.push(["announce", "Taken back."]);
    } else {
      const next = entry.kind === "flag" ? null : this.current();
      const done = { set: `Saved ${this.words(entry.value)}.`, skip: "Skipped.", flag: "Flagged." }[entry.kind];
      effects.push(["announce", next ? `${done} Next image, ${this.labelled + 1} of ${this.images}: ${next.name}.` : done]);
    }
    return [...effects, ["refresh"]];
  }

  /* It cannot be saved now, and waits; scoring goes on. */
  held(entry, { text, hint }) {
    return [["warn", text, `What you said waits in this browser, listed under “Waiting”. ${hint}`]];
  }

  /* Another score was there before it, or there is nothing to take back: that is final. */
  refused(entry, status, answer) {
    const warning = ["warn", answer.error, answer.hint];
    this.lost = true;
    if (entry.kind === "batch" || entry.kind === "undo-batch") return [warning];
    if (entry.kind === "undo") return [warning, ...this.#undoRefused(entry)];
    const made = this.actions.find((action) => action.key === entry.key); // none before a reload
    this.actions = this.actions.filter((action) => action !== made);
    if (entry.kind === "flag") {
      for (const card of [...this.ahead, ...this.past]) {
        if (card.pendingKey === entry.key) Object.assign(card, { pendingKey: undefined, flagged: false });
      }
      return [warning, ...this.#show()];
    }
    this.#withdraw(entry.image_id);
    // The image comes back, knowing of the other score, so that it can be scored again at once.
    return [warning, ["fetchCard", entry.image_id, offerOf(made?.card ?? entry)]];
  }

  /* The score stands, so the image that came back for it goes again. What this page remembers is not
     the newest any more; the next undo leaves that to the server. */
  #undoRefused(entry) {
    this.actions = [];
    if (entry.back) this.#withdraw(entry.back);
    return this.#show();
  }

  /* `card`: null where the server could not be reached; the image comes again by the queue. */
  cardArrived(card, why) {
    if (card) this.#bring({ ...card, ...why });
    return this.#show();
  }

  /* `left` scores wait to be saved, `late`: for longer than a moment; `why`, where that is known. */
  outboxChanged(left, late, why = null) {
    const all = left === 0 && this.wasLate && !this.lost;
    const effect = all ? ["allSaved"] : ["waiting", left, late || this.wasLate, why];
    this.wasLate = left > 0 && (late || this.wasLate);
    this.lost &&= left > 0;
    return [effect, ...(!this.outbox.moving() && !this.current() ? this.#fetchQueue(true) : [])];
  }
}

if (typeof module === "object") module.exports = { ScoringSession };
