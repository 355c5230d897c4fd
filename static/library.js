/* The library: select tiles, then one key scores them; and on an image's own page, one key scores
   the image. Without this, check boxes and buttons do the same. */
"use strict";

const shelf = byId("shelf"), changes = byId("changes");

if (shelf && changes) {
  const everything = byId("everything"), unselect = byId("unselect");
  const picks = () => [...shelf.querySelectorAll("[data-pick]")];
  const picked = () => picks().filter((box) => box.checked);
  const links = () => [...shelf.querySelectorAll(".shelf-picture")];
  const boxOf = (element) => element?.closest(".shelf-tile")?.querySelector("[data-pick]");
  let anchor = null; // where a range begins

  function count() {
    const number = picked().length, all = Boolean(everything?.checked);
    byId("selected").textContent = all ? "Everything that matches" : number ? `${number} selected` : "Selected images";
    changes.hidden = !number && !all;
    unselect.hidden = !number && !all;
  }

  function pick(box, on, range) {
    const boxes = picks(), from = boxes.indexOf(anchor), to = boxes.indexOf(box);
    if (range && from >= 0) boxes.slice(Math.min(from, to), Math.max(from, to) + 1).forEach((one) => { one.checked = on; });
    else box.checked = on;
    anchor = box;
    count();
  }

  function clear() {
    for (const box of picks()) box.checked = false;
    if (everything) everything.checked = false;
    anchor = null;
    count();
  }

  shelf.addEventListener("click", (event) => {
    const box = boxOf(event.target);
    if (!box) return;
    if (event.target === box) pick(box, box.checked, event.shiftKey);
    else if (event.target.closest(".shelf-picture") && (event.shiftKey || event.ctrlKey || event.metaKey)) {
      event.preventDefault(); // not a new window: it adds to the selection
      pick(box, event.shiftKey || !box.checked, event.shiftKey);
    }
  });
  everything?.addEventListener("change", count);
  unselect.addEventListener("click", clear);

  /* Every request is a new one; after it, what was changed stays selected where it was scored, so
     that a wrong key is put right by the next. Swapped tiles come back without their check. */
  let before = [];
  changes.addEventListener("submit", () => {
    changes.elements.key.value = newKey();
    before = picked().map((box) => box.value);
  });
  document.body.addEventListener("htmx:after:request", (event) => {
    if (event.target !== changes) return;
    setTimeout(() => {
      for (const value of before) {
        const box = byId(`tile-${value}`)?.querySelector("[data-pick]");
        if (box) box.checked = true;
      }
      count();
    });
  });

  function press(value) {
    const chosen = picked();
    const focused = boxOf(document.activeElement);
    if (!chosen.length && !everything?.checked && focused) pick(focused, true);
    const button = changes.querySelector(`button[name="value"][value="${value}"]`);
    if (button && (picked().length || everything?.checked)) changes.requestSubmit(button);
  }

  function move(event) {
    const all = links();
    const at = all.indexOf(document.activeElement?.closest(".shelf-tile")?.querySelector(".shelf-picture"));
    const next = at < 0 ? all[0] : all[at + arrowStep(event, all)];
    if (!next) return;
    if (event.shiftKey) {
      const from = boxOf(all[at]);
      if (from && !anchor) pick(from, true);
      pick(boxOf(next), true, true);
    }
    next.focus();
  }

  document.addEventListener("keydown", (event) => {
    if (typing(event.target) && event.target.type !== "checkbox") return;
    if (event.repeat && !event.key.startsWith("Arrow")) return;
    const value = scoreOf(event);
    if (value !== null) press(value);
    else if (takesBack(event)) byId("toast").querySelector("[data-undo] button")?.click();
    else if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "a") { for (const box of picks()) box.checked = true; count(); }
    else if (event.key === "Escape") clear();
    else if (event.key === " " && event.target.closest(".shelf-picture")) pick(boxOf(event.target), !boxOf(event.target).checked, event.shiftKey);
    else if (arrowStep(event, []) !== null && !event.target.closest("form")) move(event);
    else return;
    event.preventDefault();
  });
  if (matchMedia("(max-width: 800px)").matches) changes.querySelector("details").open = false;
  count();
}

const one = document.querySelector("form[data-one]");
if (one) {
  document.addEventListener("keydown", (event) => {
    if (typing(event.target) || event.repeat) return;
    const value = scoreOf(event);
    const save = event.key === "Enter" ? one.querySelector(".save-tags") : null;
    if (value !== null) one.querySelector(`input[name=tag][value="${value}"], button[value="${value}"]`)?.click();
    else if (save && !focusIn(event.target, "a, button, summary")) save.click();
    else if (takesBack(event)) document.querySelector("#undo-own button")?.click();
    else return;
    event.preventDefault();
  });
}

/* A filter applies as soon as it is changed, words once the typing pauses, and its field keeps the
   focus; not where site data is blocked: reading `sessionStorage` throws there. */
const filters = byId("filters"), FOCUSED = "library-filter", PAUSE = 600;
let pause = 0;
function keepFocus(name) {
  try { sessionStorage.setItem(FOCUSED, name); } catch { /* not kept, then */ }
}
function keptFocus() {
  try { return sessionStorage.getItem(FOCUSED) ?? ""; } catch { return ""; }
}
if (filters) {
  byId("show").hidden = true;
  filters.addEventListener("change", (event) => {
    keepFocus(event.target.name);
    filters.requestSubmit();
  });
  filters.addEventListener("formdata", ({ formData }) => { // what was left empty asks for nothing
    for (const name of new Set(formData.keys())) {
      const asked = formData.getAll(name).filter(Boolean);
      formData.delete(name);
      for (const value of asked) formData.append(name, value);
    }
  });
  /* However often the typing pauses, it is one step back to where it began. */
  filters.addEventListener("input", ({ target }) => {
    if (target.type !== "search") return;
    clearTimeout(pause);
    pause = setTimeout(() => {
      keepFocus(target.name);
      const asked = `${filters.action}?${new URLSearchParams(new FormData(filters))}`;
      if (target.defaultValue) location.replace(asked);
      else location.assign(asked);
    }, PAUSE);
  });
  filters.addEventListener("submit", () => clearTimeout(pause));
  const kept = filters.elements[keptFocus()];
  kept?.focus?.();
  if (kept?.type === "search") kept.setSelectionRange(kept.value.length, kept.value.length);
  keepFocus("");
}
