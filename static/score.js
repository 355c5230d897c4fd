/* The scoring page: a queue of cards in hand, the trail of those spoken about, and one of them on
   the stage. Whatever is said goes into the outbox first, then the next image is shown, then the
   outbox is sent. */
"use strict";

function scoring(page) {
  const project = Number(page.dataset.project), { queue, collection = "" } = page.dataset;
  const showFirst = page.dataset.showFirst === "1", AHEAD = 3, BACK = 2, LOW = 8, FULL = 12;
  const api = `/api/v1/projects/${project}`;
  const person = { id: Number(page.dataset.person), name: page.dataset.personName };
  const ask = (path) => fetch(api + path, { headers: { "Tastemaker-Opened-For": person.id } });
  const note = byId("outbox"), flagging = byId("flagging"), place = byId("place");
  const noteField = flagging.querySelector("input[name=note]");
  const cards = JSON.parse(page.dataset.cards); // to be scored, the first one next
  const trail = []; // spoken about, oldest first
  const acts = []; // what was said since the page was opened, for undo
  let at = null; // which of the trail is being looked at; null: the first of the cards
  let asking = false, oldest = 0, ended = false, looking = null, wasLate = false;
  let labelled = Number(page.dataset.labelled);

  const outbox = makeOutbox({ project, person, settled, refused, changed });
  const stage = makeStage(byId("stage"));
  const current = () => (at === null ? cards[0] : trail[at]);
  const zoom = makeZoom(byId("stage"), {
    sharp: () => { const card = current(); return card?.full && { src: card.full, width: card.width, height: card.height }; },
    changed: (percent) => {
      byId("zoom").setAttribute("aria-pressed", String(percent !== null));
      if (percent !== null) announce(`Zoomed to ${percent} %. The arrow keys move the picture.`);
    },
  });
  const announce = (text) => { byId("told").textContent = text; };

  /* --- what is seen */

  function show() {
    const card = current();
    zoom.out();
    delete page.dataset.ready;
    delete page.dataset.unseen;
    if (!card) {
      describe(card);
      const left = outbox.all().length;
      if (!left) return refill(true);
      if (outbox.elsewhere()) return stage.empty("Reload the page to go on scoring.");
      return stage.empty(wasLate ? "Not connected. The next image comes when the server answers again." : "");
    }
    stage.show(card, {
      seen: () => { page.dataset.ready = card.image_id; },
      unseen: () => { page.dataset.unseen = card.image_id; },
    });
    afterPaint(() => {
      if (current() !== card) return; // another one came meanwhile, and with it its own turn
      const line = [...trail, ...cards], here = at ?? trail.length;
      describe(card);
      stage.keep([card, ...line.slice(here + 1, here + 1 + AHEAD), ...line.slice(Math.max(0, here - BACK), here)]);
      stage.fetchAhead(cards);
      refill();
    });
  }

  /* First the picture, then the words about it: they would only hold it up. The clock is for a tab
     in the background, where nothing is painted. */
  function afterPaint(act) {
    let due = true;
    const once = () => { if (due) act(); due = false; };
    requestAnimationFrame(() => setTimeout(once));
    setTimeout(once, 100);
  }

  function describe(card) {
    const past = at !== null, said = past ? card.said : null;
    const about = [past && `${trail.length - at} back`, said?.kind === "skip" && "skipped",
                   said?.kind === "set" && `you said ${said.value}`, card?.flagged && "flagged"];
    place.hidden = !card || !about.some(Boolean);
    place.textContent = about.filter(Boolean).join(" · ");
    for (const button of byId("scale").querySelectorAll("button")) {
      if (said?.kind === "set" && Number(button.value) === said.value) button.setAttribute("aria-pressed", "true");
      else button.removeAttribute("aria-pressed");
    }
    showSpokenOf(past ? card : trail.at(-1), past);
    if (!card) return;
    byId("this-name").textContent = card.name;
    byId("this-size").textContent = card.width ? `${card.width} × ${card.height}` : "";
    if (!showFirst) return;
    byId("this-said").textContent = card.blind ? "" : prediction(card);
    byId("this-reason").textContent = card.blind ? "" : card.reason;
  }

  function prediction(card) {
    if (card.prediction === null) return "no prediction yet";
    const spread = card.uncertainty === null ? "" : `\u00a0±\u00a0${Math.round(100 * card.uncertainty)}`;
    const by = card.predicted_by === "live model" ? "the live model" : card.predicted_by;
    return `predicted ${Math.round(100 * card.prediction)}\u202f%${spread}${by ? ` by ${by}` : ""}`;
  }

  /* Blind first: what the model thought, why the image was shown and what lies near it come after
     the key. */
  function showSpokenOf(card, past) {
    byId("previous").hidden = !card;
    if (!card) byId("just-now").hidden = true;
    if (!card) return;
    const { kind, value } = card.said, thumb = byId("previous-picture");
    byId("previous-title").textContent = past ? "What was said"
      : acts.some((act) => act.card === card) ? "Just scored" : "Scored last";
    thumb.hidden = !card.view;
    if (card.view) thumb.src = card.view; // in the cache already, also without a connection
    byId("previous-score").replaceChildren(...(kind === "set" ? [chip(value), " your score"] : ["skipped"]));
    byId("previous-said").textContent = prediction(card);
    byId("previous-reason").textContent = card.reason;
    byId("just-now").hidden = past;
    byId("just-now").replaceChildren(kind === "set" ? chip(value) : "skipped", ` ${prediction(card)}`);
    byId("previous-neighbours").replaceChildren(...(card.neighbours ?? []).map((near) => {
      const item = document.createElement("li"), image = document.createElement("img");
      Object.assign(image, { src: `/images/${near.image_id}/thumb`, alt: "", width: 72, height: 56 });
      image.onerror = () => { image.hidden = true; }; // without a connection: its score is enough
      item.append(image, chip(near.score));
      return item;
    }));
  }

  function chip(value) {
    const shown = document.createElement("span");
    Object.assign(shown, { className: `chip r${Math.round(value)}`, textContent: value });
    return shown;
  }

  /* --- what is said */

  function say(kind, value, text = "") {
    const card = current();
    if (!card) return;
    // Only a picture that was there to be seen can be judged; one that does not come can be skipped.
    const seen = page.dataset.ready === String(card.image_id);
    const skippable = kind === "skip" && page.dataset.unseen === String(card.image_id);
    if (kind !== "flag" && !seen && !skippable) return ignore();
    if (kind === "skip" && at !== null) return forward();
    const { image_id, origin, reason, event_id, last, said } = card;
    const leans = last ? { after: last, fill: "expected" } : { expected: event_id };
    const key = outbox.put({ kind, value, note: text, image_id, queue, origin, reason, ...leans });
    acts.push({ card, key, kind, first: at === null, before: { event_id, last, said, flagged: card.flagged } });
    card.last = key;
    if (kind === "flag") {
      card.flagged = true;
      describe(card);
      return outbox.send();
    }
    card.said = { kind, value };
    if (at === null) {
      trail.push(cards.shift());
      if (kind === "set") labelled += 1;
    } else at = at + 1 < trail.length ? at + 1 : null;
    show();
    outbox.send();
  }

  /* A key that came too early says so, or it would look lost. */
  function ignore() {
    byId("scale").classList.add("ignored");
    setTimeout(() => byId("scale").classList.remove("ignored"), stage.SEEN);
  }

  function undo() {
    const act = acts.pop();
    const what = !act ? {} : act.event_id ? { event_id: act.event_id } : { after: act.key, fill: "event_id" };
    outbox.put({ kind: "undo", blind: !act, back: act?.first ? act.card.image_id : undefined, ...what });
    if (act) {
      if (act.first && act.card.said?.kind === "set" && act.kind === "set") labelled -= 1;
      Object.assign(act.card, act.before);
      if (act.kind !== "flag" && act.first) bring(act.card);
      else if (act.kind !== "flag") at = trail.indexOf(act.card) < 0 ? null : trail.indexOf(act.card);
      show();
    }
    outbox.send();
  }

  /* Put an image in front, and take it from wherever else it waited. */
  function bring(card) {
    withdraw(card.image_id);
    cards.unshift(card);
    at = null;
  }

  function withdraw(image_id) {
    for (const held of [cards, trail]) {
      const found = held.findIndex((card) => card.image_id === image_id);
      if (found >= 0) held.splice(found, 1);
    }
    if (at !== null && at >= trail.length) at = null;
  }

  /* --- the trail */

  async function back() {
    if ((at ?? trail.length) === 0) await older();
    const to = (at ?? trail.length) - 1;
    if (to < 0) return announce("There is nothing before this.");
    at = to;
    if (at <= BACK) older();
    show();
    announce(`${trail.length - at} back: ${current().name}, ${current().said.kind === "set" ? `you said ${current().said.value}` : "skipped"}.`);
  }

  function forward() {
    if (at === null) return;
    at = at + 1 < trail.length ? at + 1 : null;
    show();
    if (at === null) announce("Back at the image to score.");
  }

  /* What was said before this page was opened, a dozen images at a time. */
  function older() {
    looking ??= (async () => {
      try {
        for (let found = 0; !found && !ended; ) {
          const answer = await ask(`/history?before=${oldest}&n=12`);
          if (!answer.ok) return;
          const told = await answer.json();
          ended = told.length === 0;
          if (!ended) oldest = Math.min(...told.map((one) => one.event_id));
          const held = new Set([...trail, ...cards].map((card) => card.image_id));
          const fresh = told.filter((one) => !held.has(one.card.image_id)).map((one) => (
            { ...one.card, said: { kind: one.kind, value: one.value } }));
          trail.unshift(...fresh.reverse());
          if (at !== null) at += fresh.length;
          found = fresh.length;
        }
      } catch { /* not reachable: asked again with the next key */ } finally { looking = null; }
    })();
    return looking;
  }

  /* --- the queue */

  /* Keep some cards in hand. Without any left, and nothing more to score, the server's page says
     what to do next. */
  async function refill(last = false) {
    if (asking || cards.length >= LOW) return;
    asking = true;
    try {
      const waiting = outbox.images().map((image_id) => ({ image_id }));
      const held = [...new Set([...cards, ...waiting].map((card) => card.image_id))].join(",");
      const answer = await ask(`/queue?queue=${queue}&collection=${collection || 0}&n=${FULL}&exclude=${held}`);
      if (!answer.ok) return;
      const spoken = acts.map((act) => act.card);
      const taken = new Set([...cards, ...spoken, ...waiting].map((card) => card.image_id));
      const fresh = (await answer.json()).filter((card) => !taken.has(card.image_id));
      const wasEmpty = cards.length === 0;
      cards.push(...fresh);
      for (const card of fresh) { // it may have come up in the trail as well
        const found = trail.findIndex((other) => other.image_id === card.image_id);
        if (found >= 0 && at === null) trail.splice(found, 1);
      }
      if (wasEmpty && fresh.length && at === null) show();
      else if (last && fresh.length === 0) location.reload();
      else if (at === null) stage.prepare(cards.slice(1, 1 + AHEAD));
      stage.fetchAhead(cards);
    } catch { /* not reachable: the outbox says so */ } finally { asking = false; }
  }

  /* --- what the server answers */

  function settled(entry, told) {
    for (const card of [...cards, ...trail, ...acts.map((act) => act.before)]) {
      if (card.last === entry.key) Object.assign(card, { event_id: told.event_id, last: undefined });
    }
    const act = acts.find((one) => one.key === entry.key);
    if (act) act.event_id = told.event_id;
    if (told.events) { // said on the page for many
      const left = Object.values(told.refused ?? {});
      if (left.length) tell(`${left.length} of ${entry.images.length} were left as they are.`, left[0]);
      announce(entry.kind === "batch" ? `Saved for ${Object.keys(told.events).length} images.` : "Taken back.");
    } else if (entry.kind === "undo") {
      if (entry.blind) { // said before this page was opened: only the server knew what it was
        bring(told.card);
        show();
      }
      announce("Taken back.");
    } else {
      const next = current();
      const said = { set: `Saved ${entry.value}.`, skip: "Skipped.", flag: "Flagged." }[entry.kind];
      announce(next && entry.kind !== "flag"
        ? `${said} Next image, ${labelled + 1} of ${page.dataset.images}: ${next.name}.` : said);
    }
    if (entry.at > toldAt) quiet();
    document.body.dispatchEvent(new Event("scored"));
  }

  async function refused(entry, status, told) {
    tell(told.error, told.hint);
    if (entry.kind === "batch" || entry.kind === "undo-batch") return;
    if (entry.kind === "undo") return keep(entry);
    const found = acts.findIndex((act) => act.key === entry.key);
    if (found >= 0) acts.splice(found, 1);
    if (entry.kind === "flag") {
      for (const card of [...cards, ...trail]) if (card.last === entry.key) Object.assign(card, { last: undefined, flagged: false });
      return show();
    }
    const shown = current()?.image_id === entry.image_id;
    withdraw(entry.image_id);
    // Where another score was there before it, the image comes back, knowing of that one, so that
    // it can be scored again at once.
    if (status === 409) {
      try {
        const answer = await ask(`/images/${entry.image_id}`);
        const { origin, reason } = entry;
        if (answer.ok) bring({ ...(await answer.json()), origin, reason });
      } catch { /* not reachable: the image comes again by the queue */ }
      show();
    } else if (shown || !current()) show();
    else describe(current());
  }

  /* A refused undo: its score stands, so the image that came back for it goes again. What this page
     remembers is not the newest any more; the next undo leaves that to the server. */
  function keep(entry) {
    acts.length = 0;
    if (entry.back) withdraw(entry.back);
    show();
  }

  function changed(left, late) {
    if (left === 0 && wasLate) {
      note.textContent = "Everything is saved.";
      setTimeout(() => { if (!outbox.all().length) note.hidden = true; }, 2500);
    } else {
      note.hidden = left === 0 || !late && !wasLate;
      note.textContent = `${left} ${left === 1 ? "score" : "scores"} waiting to be saved; nothing is lost.`;
    }
    note.classList.toggle("late", left > 0);
    wasLate = left > 0 && (late || wasLate);
    if (left === 0 && !current()) refill(true);
  }

  /* --- keys, buttons, fingers */

  const acting = {
    skip: () => say("skip", null), undo, back, forward, zoom: zoom.toggle,
    flag: () => { flagging.open = true; noteField.focus(); },
    help: () => byId("all-keys").showModal(),
  };

  // Opened by mouse as well: what is typed then is the note, and no score.
  flagging.addEventListener("toggle", () => { if (flagging.open) noteField.focus(); });

  function closeFlag() {
    flagging.open = false;
    noteField.value = "";
    document.activeElement?.blur();
  }

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && flagging.open) closeFlag();
    else if (event.key === "Escape" && zoom.isIn()) zoom.out();
    else if (typing(event.target)) return;
    else if (!event.ctrlKey && !event.altKey && zoom.arrow(event.key)) { /* moved */ }
    else {
      const action = actionOf(event);
      const onControl = event.target.closest("a, button, summary") !== null;
      if (!action || (onControl && (event.key === " " || event.key === "Enter"))) return;
      if (event.repeat && action !== "back" && action !== "forward") return event.preventDefault();
      if (action.startsWith("score-")) say("set", Number(action.slice(6)));
      else acting[action]();
    }
    event.preventDefault();
  });
  byId("scale").addEventListener("submit", (event) => {
    event.preventDefault();
    say("set", Number(event.submitter.value));
  });
  byId("flag").addEventListener("submit", (event) => {
    event.preventDefault();
    say("flag", null, event.target.elements.note.value.trim());
    closeFlag();
  });
  for (const [form, act] of [["skip", acting.skip], ["undo", undo]]) {
    byId(form).addEventListener("submit", (event) => { event.preventDefault(); act(); });
  }
  // A button pressed by mouse gives the keyboard back, or the next Space would press it again.
  page.addEventListener("click", (event) => {
    if (event.detail > 0) event.target.closest("button")?.blur();
  });
  byId("zoom").addEventListener("click", zoom.toggle);
  page.querySelectorAll(".scripted").forEach((button) => { button.hidden = false; });
  swiping(byId("stage"), zoom, (way) => (way === "left" ? acting.skip() : back()));

  // After a reload, what still waits to be saved must not be asked for again.
  outbox.images().forEach(withdraw);
  wasLate = outbox.all().length > 0;
  show();
  older().then(() => { 
    if (at === null) stage.prepare(trail.slice(-BACK));
    describe(current());
  });
  outbox.send();
}

if (byId("score")) scoring(byId("score"));
