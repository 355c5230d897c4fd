/* The scoring page: carries out what the scoring session says, and tells it of keys, buttons,
   fingers, pictures and answers. What is scored goes into the outbox first, then the next image is
   shown, then the outbox is sent. */
"use strict";

function scoring(page) {
  const { queue, collection = "0" } = page.dataset, project = Number(page.dataset.project);
  const person = { id: Number(page.dataset.person), name: page.dataset.personName };
  const note = byId("outbox"), flagging = byId("flagging"), place = byId("place");
  const noteField = flagging.querySelector("input[name=note]");
  const kinds = page.dataset.kinds ? JSON.parse(page.dataset.kinds) : null; // classes by number
  const several = page.dataset.labelling === "tags", boxes = [...byId("scale").querySelectorAll("input[name=tag]")];
  const words = kinds ? (value) => labelInWords(kinds, several, value) : String;

  const outbox = pageOutbox({
    project, person,
    saved: (entry, answer) => run(session.saved(entry, answer)),
    refused: (entry, status, answer) => run(session.refused(entry, status, answer)),
    held: (entry, reason) => run(session.held(entry, reason)),
    changed: (left, late, why) => run(session.outboxChanged(left, late, why)),
  });
  const session = new ScoringSession({
    cards: JSON.parse(page.dataset.cards), queue, outbox, newKey,
    labelled: Number(page.dataset.labelled), images: Number(page.dataset.images),
    showFirst: page.dataset.showFirst === "1", words,
  });
  const stage = makeStage(byId("stage"));
  const zoom = makeZoom(byId("stage"), {
    sharp: () => { const card = session.current(); return card?.full && { src: at(card.full), width: card.width, height: card.height }; },
    changed: (percent) => {
      byId("zoom").setAttribute("aria-pressed", String(percent !== null));
      if (percent !== null) effects.announce(`Zoomed to ${percent} %. The arrow keys move the picture.`);
    },
  });

  /* --- what the session wants done */

  const effects = {
    clear() {
      zoom.out();
      delete page.dataset.ready;
      delete page.dataset.unseen;
    },
    show(card) {
      for (const box of boxes) box.checked = tagsOf(card.decision?.value ?? 0).includes(Number(box.value));
      stage.show(card, {
        seen: () => { session.pictureSeen(card); page.dataset.ready = card.image_id; },
        unseen: () => { session.pictureMissing(card); page.dataset.unseen = card.image_id; },
      });
      afterPaint(() => run(session.painted(card)));
    },
    empty: stage.empty, keep: stage.keep, prepare: stage.prepare, prefetch: stage.fetchAhead,
    describe,
    async fetchQueue({ n, exclude }) {
      const wish = `queue=${queue}&collection=${collection}&n=${n}&exclude=${exclude}`;
      run(session.queueArrived(await read(`/queue?${wish}`)));
    },
    async fetchHistory({ before, n }) {
      run(session.historyArrived(await read(`/history?before=${before}&n=${n}`)));
    },
    async fetchCard(image_id, why) {
      run(session.cardArrived(await read(`/images/${image_id}`), why));
    },
    send() { outbox.send(); },
    saved(at) { if (at > warnedAt) quiet(); },
    waiting(left, visible, why) {
      note.hidden = left === 0 || !visible;
      if (!note.hidden) tellWaiting(note, left, "score", why);
    },
    allSaved() {
      note.textContent = everythingSaved();
      note.classList.remove("late");
      setTimeout(() => { if (!outbox.all().length) note.hidden = true; }, 2500);
    },
    announce(text) { byId("told").textContent = text; },
    warn,
    ignored() { // a key that came too early shows it, or it would look lost
      byId("scale").classList.add("ignored");
      setTimeout(() => byId("scale").classList.remove("ignored"), stage.SEEN);
    },
    refresh() { document.body.dispatchEvent(new Event("scored")); },
    reload() { location.reload(); },
    zoom: zoom.toggle,
    flag() { flagging.open = true; noteField.focus(); },
    help() { byId("all-keys").showModal(); },
  };

  function run(wanted) {
    return Promise.all(wanted.map(([name, ...values]) => effects[name](...values)));
  }

  /* The server's answer; null without one. */
  async function read(path) {
    try {
      const answer = await fetch(at(`/api/v1/projects/${project}${path}`), { headers: { "Tastemaker-Library": own.library, "Tastemaker-Opened-For": person.id } });
      return answer.ok ? await answer.json() : null;
    } catch { return null; }
  }

  /* First the picture, then the words about it: they would only hold it up. The clock is for a tab
     in the background, where nothing is painted. */
  function afterPaint(act) {
    let due = true;
    const once = () => { if (due) act(); due = false; };
    requestAnimationFrame(() => setTimeout(once));
    setTimeout(once, 100);
  }

  /* --- the words beside the stage */

  function describe() {
    const { card, previous, walking, back, decision, predicts, scoredHere } = session.about();
    const about = [walking && `${back} back`, decision?.kind === "skip" && "skipped",
                   decision?.kind === "set" && `you said ${words(decision.value)}`, card?.flagged && "flagged"];
    place.hidden = !card || !about.some(Boolean);
    place.textContent = about.filter(Boolean).join(" · ");
    for (const button of byId("scale").querySelectorAll("button")) {
      if (decision?.kind === "set" && Number(button.value) === decision.value) button.setAttribute("aria-pressed", "true");
      else button.removeAttribute("aria-pressed");
    }
    byId("previous").hidden = !previous;
    byId("just-now").hidden = !previous || walking;
    const [scored, Scored] = kinds ? ["labelled", "Labelled"] : ["scored", "Scored"];
    byId("previous-title").textContent = walking ? "What was said" : scoredHere ? `Just ${scored}` : `${Scored} last`;
    if (previous) describePrevious(previous);
    if (!card) return;
    byId("this-name").textContent = card.name;
    byId("this-size").textContent = card.width ? `${card.width} × ${card.height}` : "";
    if (!session.showFirst) return;
    byId("this-said").textContent = predicts ? prediction(card) : "";
    byId("this-reason").textContent = predicts ? card.reason : "";
  }

  /* Blind first: what the model thought, why the image was shown and what lies near it come after
     the key. */
  function describePrevious(card) {
    const { kind, value } = card.decision, thumb = byId("previous-picture");
    thumb.hidden = !card.view;
    if (card.view) thumb.src = at(card.view); // in the cache already, also without a connection
    byId("previous-score").replaceChildren(...(kind === "set" ? [...chips(value), kinds ? "" : " your score"] : ["skipped"]));
    byId("previous-said").textContent = prediction(card);
    byId("previous-reason").textContent = card.reason;
    byId("just-now").replaceChildren(...(kind === "set" ? chips(value) : ["skipped"]), ` ${prediction(card)}`);
    byId("previous-neighbours").replaceChildren(...(card.neighbours ?? []).map((near) => {
      const item = document.createElement("li"), image = document.createElement("img");
      Object.assign(image, { src: at(`/images/${near.image_id}/thumb`), alt: "", width: 72, height: 56 });
      image.onerror = () => { image.hidden = true; }; // without a connection: its score is enough
      item.append(image, ...chips(near.score));
      return item;
    }));
  }

  /* How sure a model is, in per cent: never all or none, as the pages write it. */
  function sure(share) {
    const rounded = Math.round(100 * share);
    return rounded >= 100 ? "> 99" : rounded <= 0 ? "< 1" : rounded;
  }

  function prediction(card) {
    const by = card.predicted_by === "live model" ? "the live model" : card.predicted_by;
    if (kinds) return card.says === null ? "no prediction yet" : `predicted ${words(card.says)}, ${sure(card.prediction)}\u202f% sure by ${by}`;
    if (card.prediction === null) return card.origin === "audit" ? "" : "no prediction yet";
    const spread = card.uncertainty === null ? "" : `\u00a0±\u00a0${(10 * card.uncertainty).toFixed(1)}`;
    return `predicted ${(10 * card.prediction).toFixed(1)}${spread}${by ? ` by ${by}` : ""}`;
  }

  /* A label as it is drawn: a score, a class, or a chip for each tag. */
  function chips(value) {
    if (kinds) return labelChips(kinds, several, value);
    return [Object.assign(document.createElement("span"), { className: `chip r${Math.round(value)}`, textContent: value })];
  }

  /* Of tags, a key ticks; what is ticked is saved together. */
  const ticked = () => tickedTags(boxes), tick = (number) => tickTag(boxes, number);

  /* --- keys, buttons, fingers */

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
    else if (several && event.key === "Enter" && !event.repeat && !pressesControl(event)) run(session.score(ticked()));
    else {
      const action = actionOf(event);
      if (!action || pressesControl(event)) return;
      if (several && scoreOfAction(action) !== null) { if (!event.repeat) tick(scoreOfAction(action)); }
      else run(session.press(action, event));
    }
    event.preventDefault();
  });
  // Opened by mouse as well: what is typed then is the note, and no score.
  flagging.addEventListener("toggle", () => { if (flagging.open) noteField.focus(); });
  const submits = {
    scale: (event) => session.score(several ? ticked() : Number(event.submitter.value)),
    skip: () => session.skip(),
    undo: () => session.undo(),
    flag: () => session.flag(noteField.value.trim()),
  };
  for (const [form, effectsOf] of Object.entries(submits)) {
    byId(form).addEventListener("submit", (event) => {
      event.preventDefault();
      run(effectsOf(event));
      if (form === "flag") closeFlag();
    });
  }
  // A button pressed by mouse gives the keyboard back, or the next Space would press it again.
  page.addEventListener("click", (event) => {
    if (event.detail > 0) event.target.closest("button")?.blur();
  });
  byId("zoom").addEventListener("click", zoom.toggle);
  page.querySelectorAll(".scripted").forEach((button) => { button.hidden = false; });
  swiping(byId("stage"), zoom, (way) => run(way === "left" ? session.skip() : session.back()));

  run(session.start());
}

if (byId("score")) scoring(byId("score"));
