/* Many images at once. Selecting: click, drag over several, Shift for a range, arrows and Space.
   A score key, or a button, says the same of all that are selected; the tiles stay where they are. */
"use strict";
const grid = byId("grid");
if (grid) {
  const tiles = [...grid.querySelectorAll("[data-tile]")];
  const boxes = tiles.map((tile) => tile.querySelector("input"));
  const api = `/api/v1/projects/${grid.dataset.project}`;
  let anchor = -1; // where a range begins
  let sending = Promise.resolve(); // one request after the other, in the order of the keys

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
    count();
  });
  grid.addEventListener("change", (event) => {
    const at = boxes.indexOf(event.target);
    if (at >= 0) { select(at, boxes[at].checked); count(); }
  });

  /* --- with the keyboard ----------------------------------------------------------------- */
  const columns = () => tiles.filter((tile) => tile.offsetTop === tiles[0].offsetTop).length;
  const steps = { ArrowRight: () => 1, ArrowLeft: () => -1, ArrowDown: columns, ArrowUp: () => -columns() };
  document.addEventListener("keydown", (event) => {
    if (typing(event.target)) return;
    const here = boxes.indexOf(document.activeElement);
    if (steps[event.key] && !event.ctrlKey && !event.metaKey && !event.altKey) {
      const to = here < 0 ? 0 : Math.min(boxes.length - 1, Math.max(0, here + steps[event.key]()));
      if (event.shiftKey) { range(anchor < 0 ? to : anchor, to, true); count(); } else anchor = to;
      boxes[to].focus();
      boxes[to].closest("[data-tile]").scrollIntoView({ block: "nearest" });
      return event.preventDefault();
    }
    if (event.repeat) return;
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "a") selectLeft();
    else if (event.key === "Escape") { selectOnly(() => false); count(); }
    else if (scoreOf(event) !== null) say(scoreOf(event));
    else if (takesBack(event)) takeBack();
    else if (event.key === "Enter" && here >= 0) { select(here, !boxes[here].checked); count(); }
    else if (actionOf(event) === "skip" && here < 0) say(null);
    else return;
    event.preventDefault();
  });
  const selectLeft = () => {
    selectOnly((at) => !tiles[at].dataset.said);
    count();
  };

  /* --- saying it ------------------------------------------------------------------------- */
  const parts = (box) => {
    const [image, expected, origin, ...reason] = box.value.split(":");
    return { image_id: Number(image), expected: Number(expected), origin, reason: reason.join(":") };
  };
  const knows = (box, event) => {
    const known = parts(box);
    box.value = [known.image_id, event, known.origin, known.reason].join(":");
  };
  const show = (at, value, said = true) => {
    const place = tiles[at].querySelector("[data-score]"), chip = document.createElement("span");
    const scored = value !== null && value !== undefined;
    chip.className = scored ? `chip r${value}` : "chip none";
    chip.textContent = scored ? value : "skipped";
    place.replaceChildren(...(said || scored ? [chip] : []));
    if (said) tiles[at].dataset.said = "1"; else delete tiles[at].dataset.said;
  };
  const post = async (path, body) => {
    const request = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    // The key makes a repeat harmless, so a lost answer costs nothing but time.
    let answer = null;
    for (let tries = 1; !answer; tries += 1) {
      try {
        answer = await fetch(api + path, request);
      } catch (error) {
        if (tries === 30) throw error;
        byId("chosen").textContent = "The server does not answer; this is sent again …";
        await new Promise((again) => setTimeout(again, 2000));
      }
    }
    const told = await answer.json().catch(() => ({}));
    if (!answer.ok) throw Object.assign(new Error(told.error || "The server could not save this."), { hint: told.hint });
    return told;
  };
  const at = (image) => tiles.findIndex((tile) => tile.dataset.tile === String(image));
  const inOrder = (work) => {
    sending = sending.then(work).catch((error) => {
      tell(error instanceof TypeError ? "The server cannot be reached; nothing was saved." : error.message,
        error.hint || "The selection is still there. Try again.");
    });
  };

  function say(value) {
    const chosen = boxes.filter((box) => box.checked);
    if (!chosen.length) return tell("No image is selected.", "Click the images first, then press a score.");
    const key = newKey();
    chosen.forEach((box) => tiles[boxes.indexOf(box)].classList.add("late"));
    inOrder(async () => {
      try {
        const told = await post("/batches", { images: chosen.map(parts), value, key });
        for (const [image, event] of Object.entries(told.events)) {
          knows(boxes[at(image)], event);
          show(at(image), value);
          select(at(image), false);
        }
        const refused = Object.entries(told.refused);
        if (refused.length) tell(`${refused.length} of ${chosen.length} were left as they are.`, refused[0][1]);
        byId("told").textContent = `${value === null ? "Skipped" : `Saved ${value} for`} ${Object.keys(told.events).length} images`;
      } finally {
        chosen.forEach((box) => tiles[boxes.indexOf(box)].classList.remove("late"));
        count();
      }
    });
    return undefined;
  }

  function takeBack() {
    inOrder(async () => {
      const told = await post("/batches/undo", { key: newKey() });
      for (const [image, event] of Object.entries(told.events)) {
        if (at(image) < 0) continue;
        knows(boxes[at(image)], event);
        show(at(image), told.scores[image], event > 0);
      }
      byId("told").textContent = `Taken back for ${Object.keys(told.events).length} images`;
    });
  }

  grid.addEventListener("submit", (event) => {
    event.preventDefault();
    const value = event.submitter?.value ?? "";
    say(value === "skip" ? null : Number(value));
  });
  byId("grid-undo").addEventListener("submit", (event) => { event.preventDefault(); takeBack(); });
  const all = byId("select-all");
  all.hidden = false;
  all.addEventListener("click", selectLeft);
  selectOnly(() => false);
  count();
}
