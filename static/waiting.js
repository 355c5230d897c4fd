/* What waits in this browser to be saved, on every page: how much, why, and what one can do about it.
   Also sends what no page of its own sends just now: the entries of other projects of this library. */
"use strict";
const takesBackAnother = typeof module === "object" ? require("./outbox.js").isUndo : isUndo;

/* Why an entry waits, as { order, title, text, offer } of the group that it is listed in; `offer`:
   whether the group can be sent to this library. `why` is the trouble of the moment. */
function groupOf(entry, library, why) {
  if (entry.unreadable) return {
    order: 3, title: "Cannot be read", text: "Half-written, or not by Tastemaker. Saved as a file, it is there as it is.",
  };
  if (!entry.library) return {
    order: 1, title: "From before an upgrade", offer: true,
    text: "It was not noted then which library these belong to. The pictures are those that have the same numbers here: if they are what you scored, send them to this library.",
  };
  if (entry.library !== library) return {
    order: 2, title: "Of another library", text: `They are sent once it is served at this address again. Its id: ${entry.library}.`,
  };
  const reason = entry.held ?? why;
  if (reason) return { order: 0, title: reason.text, signIn: Boolean(reason.signIn), text: `${reason.hint} ${entry.held ? "It is tried again every minute." : ""}` };
  return { order: 0, title: "Not sent yet", text: entry.name ? `They are sent while ${entry.name} scores here.` : "" };
}

/* What waits, as the lines of two files: `scores`, which `tastemaker scores import` reads, and the
   `rest` as it is (skips, flags, undos, what names no picture). What another entry takes back is in
   neither. */
function linesOf(entries) {
  const undone = new Set(entries.filter(takesBackAnother).map((entry) => entry.after));
  const scores = [], rest = [];
  for (const entry of entries) {
    const images = entry.kind === "batch" ? entry.images : [entry];
    const known = images.every((one) => one.sha256) && typeof entry.value === "number";
    if (undone.has(entry.key) || (takesBackAnother(entry) && entry.after)) continue;
    if (!known) { rest.push(JSON.stringify(entry)); continue; }
    for (const { sha256 } of images) {
      const { value: score, name: annotator, library, project, key } = entry;
      scores.push(JSON.stringify({ sha256, score, annotator, scored_at: new Date(entry.at).toISOString(), library, project, key }));
    }
  }
  return { scores, rest };
}

function watching(dialog) {
  const { library, browser } = own, { store } = browser;
  const opener = byId("waiting-open"), groups = byId("waiting-groups");
  const keepers = new Map(); // of projects and people without a page of their own here
  /* Whether the page's own outbox sends it. */
  const covered = (entry) => own.outbox !== null && entry.library === library
    && own.outbox.project === entry.project && own.outbox.person === entry.person;
  const whyOf = (entry) => (covered(entry) ? own.outbox.why() : keepers.get(laneOf(entry))?.why()) ?? null;
  const laneOf = (entry) => `${entry.project} ${entry.person}`;

  function keep() {
    for (const entry of store.all()) {
      if (entry.unreadable || entry.library !== library || covered(entry) || keepers.has(laneOf(entry))) continue;
      const keeper = makeOutbox({
        library, browser, project: entry.project, person: { id: entry.person, name: entry.name },
        saved: refresh, changed: refresh, warn: () => {},
        refused: (_, status, answer) => warn(answer.error, answer.hint),
      });
      keepers.set(laneOf(entry), keeper);
      keeper.send();
    }
  }

  /* What is on its way and will be there in a moment is no news. */
  const isNews = (entry) => !covered(entry) || entry.held || whyOf(entry);

  function refresh() {
    const entries = store.all(), number = entries.filter(isNews).length;
    opener.hidden = number === 0;
    opener.textContent = `${number} waiting`;
    opener.title = "Scores that wait in this browser to be saved";
    const line = byId("unstored");
    if (line) {
      const where = "what is not saved yet is in this tab alone. Leave it open until it is.";
      line.hidden = !store.blocked() && !store.onlyHere();
      line.textContent = store.blocked() ? `Site data is blocked in this browser: ${where}` : `The browser's storage is full: ${where}`;
    }
    if (dialog.open) list(entries);
  }

  const element = (name, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };

  function list(entries) {
    const named = new Map();
    for (const entry of entries) {
      const group = groupOf(entry, library, whyOf(entry)), name = group.title + group.text;
      if (!named.has(name)) named.set(name, { ...group, entries: [] });
      named.get(name).entries.push(entry);
    }
    byId("waiting-none").hidden = entries.length > 0;
    byId("waiting-actions").hidden = entries.length === 0;
    groups.replaceChildren(...[...named.values()].sort((a, b) => a.order - b.order).map(section));
  }

  function section({ title, text, offer, signIn, entries }) {
    const MOST = 50;
    const actions = element("p", { className: "row" });
    if (signIn) actions.append(signInLink());
    if (offer) actions.append(button(`Send ${entries.length === 1 ? "it" : "all of them"} to this library`, () => entries.forEach(adopt)));
    if (entries.length > 1) actions.append(twice(`Discard these ${entries.length}`, () => entries.forEach((entry) => drop(store, entry))));
    const rows = element("ul", { className: "waiting-list" }, ...entries.slice(0, MOST).map(row));
    const more = entries.length > MOST ? [element("p", { className: "faint small", textContent: `and ${entries.length - MOST} more` })] : [];
    const words = element("p", { className: "faint", textContent: text });
    return element("section", {}, element("h3", { textContent: title }), words, rows, ...more, ...(actions.childElementCount ? [actions] : []));
  }

  function row(entry) {
    const what = element("span", { className: "waiting-what" }, ...said(entry));
    const title = element("span", { className: "name", textContent: titleOf(entry) });
    return element("li", {}, ...thumbs(entry), what, title, twice("Discard", () => drop(store, entry)));
  }

  function titleOf(entry) {
    if (entry.unreadable) return entry.unreadable.slice(0, 80);
    const number = entry.kind === "batch" ? `${entry.images.length} images: ` : "";
    const name = entry.title ?? (entry.image_id ? `image ${entry.image_id}` : "");
    return `${number}${name} (project ${entry.project}${entry.name ? `, ${entry.name}` : ""})`;
  }

  function said(entry) {
    if (takesBackAnother(entry)) return ["taken back"];
    if (entry.kind === "flag") return [entry.note ? `flagged: ${entry.note}` : "flagged"];
    if (typeof entry.value !== "number") return [entry.unreadable ? "" : "skipped"];
    if (entry.sweep) return [inWords(entry.value, entry.sweep)];
    if (entry.said) return [element("span", { className: "chip kind", textContent: entry.said })];
    return [element("span", { className: `chip r${entry.value}`, textContent: entry.value })];
  }

  /* Only pictures of this library: under the same number, another one has another. */
  function thumbs(entry) {
    if (entry.library && entry.library !== library) return [];
    const images = entry.kind === "batch" ? entry.images.slice(0, 3) : entry.image_id ? [entry] : [];
    return images.map(({ image_id, sha256 }) => {
      const image = element("img", { alt: "", width: 64, height: 48, loading: "lazy" });
      image.onerror = () => { image.hidden = true; };
      image.src = at(`/images/${image_id}/thumb${sha256 ? `?h=${sha256.slice(0, 16)}` : ""}`);
      return image;
    });
  }

  function button(text, act) {
    const made = element("button", { type: "button", textContent: text });
    made.addEventListener("click", () => { act(); changed(); });
    return made;
  }

  /* What cannot be brought back takes two clicks. */
  function twice(text, act) {
    const made = element("button", { type: "button", className: "quiet", textContent: text });
    made.addEventListener("click", () => {
      if (made.dataset.sure) { act(); changed(); return; }
      made.dataset.sure = "1";
      made.textContent = `${text} for good`;
      made.className = "danger";
    });
    return made;
  }

  function adopt(entry) {
    store.remove(entry);
    store.put({ ...entry, library, person: entry.person ?? own.outbox?.person });
  }

  function changed() {
    keep();
    own.outbox?.retry();
    refresh();
  }

  byId("waiting-retry").addEventListener("click", () => {
    own.outbox?.retry();
    for (const keeper of keepers.values()) keeper.retry();
  });
  byId("waiting-export").addEventListener("click", () => {
    for (const [name, lines] of Object.entries(linesOf(store.all()))) {
      if (!lines.length) continue;
      const file = new Blob(lines.map((line) => `${line}\n`), { type: "application/jsonl" });
      const link = element("a", { href: URL.createObjectURL(file), download: `waiting-${name}.jsonl` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    }
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest('[data-dialog="waiting"]')) list(store.all());
  });
  document.addEventListener("outbox", refresh);
  addEventListener("storage", refresh);
  addEventListener("beforeunload", (event) => { if (store.onlyHere()) event.preventDefault(); });
  // After the page's own outbox was made.
  addEventListener("DOMContentLoaded", () => { keep(); refresh(); });
}

if (typeof document === "object" && byId("waiting")) watching(byId("waiting"));
if (typeof module === "object") module.exports = { groupOf, linesOf };
