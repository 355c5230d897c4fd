/* Many images at once. Selecting: click, drag over several, Shift for a range, arrows and Space.
   A score key, or a button, gives all that are selected the same; the tiles stay where they are.
   Two more keys sweep: all that are selected are at least the passing score, or below it. */
"use strict";
const grid = byId("grid");
if (grid) {
  const tiles = [...grid.querySelectorAll("[data-tile]")];
  const boxes = tiles.map((tile) => tile.querySelector("input"));
  let anchor = -1; // where a range begins
  const kinds = grid.dataset.kinds ? JSON.parse(grid.dataset.kinds) : null; // classes by number
  const several = grid.dataset.labelling === "tags", tags = [...grid.querySelectorAll("input[name=tag]")];

  const count = () => {
    const selected = boxes.filter((box) => box.checked).length;
    byId("chosen").textContent = selected ? `${selected} selected` : "Select images";
    grid.classList.toggle("some", selected > 0);
  };
  const select = (at, on) => {
    boxes[at].checked = on;
    tiles[at].classList.toggle("selected", on);
  };
  const selectOnly = (wanted) => boxes.forEach((_, at) => select(at, wanted(at)));
  const range = (from, to, on) => {
    for (let at = Math.min(from, to); at <= Math.max(from, to); at += 1) select(at, on);
  };

  /* --- with the mouse, a pen or a finger ------------------------------------------------- */
  let painting = null; // what a drag does to the tiles it passes: select or deselect
  let dragged = false;
  const under = (event) => {
    const found = document.elementFromPoint(event.clientX, event.clientY)?.closest("[data-tile]");
    return found ? tiles.indexOf(found) : -1;
  };
  grid.addEventListener("pointerdown", (event) => {
    const tile = event.target.closest("[data-tile]");
    if (!tile || event.button !== 0 || event.pointerType === "touch") return;
    const at = tiles.indexOf(tile);
    painting = { on: !boxes[at].checked, from: at, before: boxes.map((box) => box.checked) };
    dragged = false;
  });
  addEventListener("pointermove", (event) => {
    if (!painting) return;
    const at = under(event);
    if (at < 0 || (at === painting.from && !dragged)) return;
    dragged = true;
    boxes.forEach((_, other) => select(other, painting.before[other]));
    range(painting.from, at, painting.on);
    count();
  });
  addEventListener("pointerup", () => { painting = null; });
  grid.addEventListener("click", (event) => {
    const tile = event.target.closest("[data-tile]");
    if (!tile) return;
    if (dragged) { event.preventDefault(); dragged = false; return; }
    if (event.target.tagName !== "INPUT") return; // the label sends a second click to its box
    const at = tiles.indexOf(tile);
    if (event.shiftKey && anchor >= 0) range(anchor, at, true);
    else anchor = at;
    tiles[at].classList.toggle("selected", boxes[at].checked);
    if (event.detail > 0) boxes[at].blur(); // by mouse: the keys are for all that are selected
    count();
  });
  grid.addEventListener("change", (event) => {
    const at = boxes.indexOf(event.target);
    if (at >= 0) { select(at, boxes[at].checked); count(); }
  });

  /* --- with the keyboard ----------------------------------------------------------------- */
  document.addEventListener("keydown", (event) => {
    if (typing(event.target)) return;
    const here = boxes.indexOf(document.activeElement);
    if (scoreOf(event) !== null) {
      if (event.repeat) return event.preventDefault();
      if (several) tickTag(tags, scoreOf(event)); else record(scoreOf(event));
      return event.preventDefault();
    }
    const step = arrowStep(event, tiles);
    if (step !== null) {
      const from = here < 0 ? anchor : here;
      const to = from < 0 ? 0 : Math.min(boxes.length - 1, Math.max(0, from + step));
      if (event.shiftKey) { range(anchor < 0 ? to : anchor, to, true); count(); } else anchor = to;
      boxes[to].focus();
      boxes[to].closest("[data-tile]").scrollIntoView({ block: "nearest" });
      return event.preventDefault();
    }
    if (event.repeat) return;
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "a") selectLeft();
    else if (event.key === "Escape") { selectOnly(() => false); count(); }
    else if (takesBack(event)) takeBack();
    else if (event.key === "Enter" && here >= 0) { select(here, !boxes[here].checked); count(); }
    else if (event.key === "Enter" && several && !pressesControl(event)) record(tickedTags(tags));
    else if (!kinds && actionOf(event) in SWEEPS) record(Number(grid.dataset.bound), SWEEPS[actionOf(event)]);
    else if (actionOf(event) === "skip" && !pressesControl(event)) record(null);
    else return;
    event.preventDefault();
  });
  const selectLeft = () => {
    selectOnly((at) => !tiles[at].dataset.said);
    count();
  };

  const SWEEPS = { pick: "at_least", reject: "below" }; // action → what the server calls it

  /* --- scoring ---------------------------------------------------------------------------- */
  const parts = (box) => {
    const [image, expected, offer] = box.value.split(":");
    const { hash } = box.closest("[data-tile]").dataset;
    return { image_id: Number(image), expected: Number(expected), offer, sha256: hash };
  };
  const knows = (box, event) => {
    const known = parts(box);
    box.value = [known.image_id, event, known.offer].join(":");
  };
  const show = (at, value, decided = true, sweep = undefined) => {
    const place = tiles[at].querySelector("[data-score]"), chip = document.createElement("span");
    const scored = value !== null && value !== undefined;
    if (decided) tiles[at].dataset.said = "1"; else delete tiles[at].dataset.said;
    if (kinds && scored) return place.replaceChildren(...labelChips(kinds, several, value));
    chip.className = scored && !sweep ? `chip r${value}` : "chip none";
    chip.textContent = scored ? inWords(value, sweep) : "skipped";
    return place.replaceChildren(...(decided || scored ? [chip] : []));
  };
  const words = (value, sweep) => (kinds ? labelInWords(kinds, several, value) : inWords(value, sweep));
  const at = (image) => tiles.findIndex((tile) => tile.dataset.tile === String(image));
  const person = { id: Number(grid.dataset.person), name: grid.dataset.personName };
  const of = newKey(), note = byId("outbox"); // this page among others whose batches wait
  const outbox = pageOutbox({ project: Number(grid.dataset.project), person, saved, refused, held, changed });
  let made = []; // keys of the batches of this page, for undo
  const waiting = () => {
    const images = new Set(outbox.images().map(String));
    tiles.forEach((tile) => tile.classList.toggle("late", images.has(tile.dataset.tile)));
    count();
  };

  function record(value, sweep) {
    const chosen = boxes.filter((box) => box.checked);
    if (!chosen.length) return warn("No image is selected.", `Click the images first, then press a ${kinds ? "class" : "score"}.`);
    const key = newKey(), titles = chosen.map((box) => box.closest("[data-tile]").dataset.title);
    outbox.put({ key, kind: "batch", of, images: chosen.map(parts), value, ...(sweep && { sweep }), ...(kinds && value !== null && { said: words(value) }), title: titles.join(", ").slice(0, 200) });
    made.push(key);
    chosen.forEach((box) => select(boxes.indexOf(box), false)); // the next key is for others
    tags.forEach((box) => { box.checked = false; }); // and so are the next tags
    waiting();
    return outbox.send();
  }

  /* The newest batch is taken back. What still waits to be saved goes first; what cannot be saved and
     was made on another page is not meant. */
  function takeBack() {
    const mine = made.pop();
    const newest = outbox.all().findLast((entry) => entry.kind === "batch" && (mine ? entry.key === mine : !entry.held));
    outbox.put({ key: newKey(), kind: "undo-batch", of, after: newest?.key });
    outbox.send();
  }

  function saved(entry, answer) {
    const events = Object.entries(answer.events ?? {});
    if (!events.length) made = made.filter((key) => key !== entry.key); // nothing of it to take back
    for (const [image, event] of events.filter(([image]) => at(image) >= 0)) {
      knows(boxes[at(image)], event);
      if (entry.kind === "batch") show(at(image), entry.value, true, entry.sweep);
      else {
        const sweep = answer.sweeps[image];
        show(at(image), sweep ? sweep.value : answer.scores[image], event > 0, sweep?.kind);
      }
    }
    reselect(Object.keys(answer.refused ?? {}));
    waiting();
    const left = Object.values(answer.refused ?? {});
    if (left.length) warn(`${left.length} of ${entry.images.length} were left as they are.`, left[0]);
    const done = { batch: entry.value === null ? "Skipped" : `Saved ${words(entry.value, entry.sweep)} for`, "undo-batch": "Taken back for" };
    byId("told").textContent = done[entry.kind] ? `${done[entry.kind]} ${events.length} images` : "Saved.";
  }

  const reselect = (images) => images.filter((image) => at(image) >= 0).forEach((image) => select(at(image), true));

  function refused(entry, status, answer) {
    if (entry.kind === "batch") reselect(entry.images.map((one) => one.image_id));
    waiting();
    warn(answer.error || "The server could not save this.", answer.hint);
  }

  function held(entry, { text, hint }) {
    waiting();
    warn(text, `What you said waits in this browser, listed under “Waiting”. ${hint}`);
  }

  function changed(left, late, why) {
    note.hidden = left === 0 || (!late && note.hidden);
    if (!note.hidden) tellWaiting(note, left, "key", why);
  }

  grid.addEventListener("submit", (event) => {
    event.preventDefault();
    const value = event.submitter?.value ?? "";
    const [sweep, bound] = value.split(" ");
    if (bound) record(Number(bound), sweep);
    else if (value === "tags") record(tickedTags(tags));
    else record(value === "skip" ? null : Number(value));
  });
  byId("grid-undo").addEventListener("submit", (event) => { event.preventDefault(); takeBack(); });
  const all = byId("select-all");
  all.hidden = false;
  all.addEventListener("click", selectLeft);
  selectOnly(() => false);
  if (outbox.all().length) changed(outbox.all().length, true); // from before a reload
  waiting();
  outbox.send();
}
