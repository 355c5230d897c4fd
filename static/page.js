/* What every page has: saying that something went wrong, and names for requests. */
"use strict";
const byId = (id) => document.getElementById(id);
/* An address of the program, under the path that it is hosted at. */
const at = (path) => (document.documentElement.dataset.root ?? "") + path;

/* Something went wrong. It stays until it is closed, until something scored later is saved, or until
   the next key, once there was time to read it. */
const READ = 1000;
let warnedAt = 0;

function warn(text, hint = "") {
  const box = document.createElement("div"), line = document.createElement("p");
  const strong = document.createElement("strong"), close = document.createElement("button");
  strong.textContent = text;
  line.append(strong, " ", hint);
  Object.assign(close, { className: "quiet", type: "button", textContent: "Close" });
  close.dataset.close = "";
  box.className = "toast wrong";
  box.append(line, close);
  byId("toast").replaceChildren(box);
  warnedAt = Date.now();
}

/* The chips of a label of classes (`kinds`: number → name and colour), or of tags. */
function labelChips(kinds, several, value) {
  const made = (className, textContent) => Object.assign(document.createElement("span"), { className, textContent });
  const shown = (several ? tagsOf(value) : [value]).filter((number) => kinds[number]);
  if (!shown.length) return [made("chip kind none", labelInWords(kinds, several, value))];
  return shown.map((number) => made(`chip kind k${kinds[number].colour}`, kinds[number].name));
}

/* Of boxes for tags: the set that is ticked, and ticking one by its number. */
const tickedTags = (boxes) => boxes.reduce((sum, box) => sum + (box.checked ? 2 ** Number(box.value) : 0), 0);
function tickTag(boxes, number) {
  const box = boxes.find((one) => Number(one.value) === number);
  if (box) box.checked = !box.checked;
}

function quiet() {
  byId("toast").querySelector(".wrong")?.remove();
}

// The server's own come by htmx.
new MutationObserver(() => { if (byId("toast").querySelector(".wrong")) warnedAt = Date.now(); })
  .observe(byId("toast"), { childList: true });

document.addEventListener("keydown", (event) => {
  const around = ["Tab", "Shift", "Control", "Alt", "Meta"].includes(event.key); // on the way to it
  if (!around && !event.target.closest("#toast") && Date.now() - warnedAt > READ) quiet();
}, true);

byId("toast").addEventListener("click", (event) => {
  if (event.target.closest("[data-close]")) byId("toast").replaceChildren();
});

/* Every request says which library the page is of, and every answer whose it is. What comes from
   another library, another program or a proxy is neither shown nor believed. */
document.addEventListener("htmx:config:request", (event) => {
  event.detail.ctx.request.headers["Tastemaker-Library"] = document.body.dataset.library;
});
document.addEventListener("htmx:before:response", (event) => {
  const { response } = event.detail.ctx, library = response.headers.get("Tastemaker-Library");
  if (library === document.body.dataset.library) return;
  event.preventDefault();
  const who = library ? "Another library is served at this address by now" : `What answers at this address is not Tastemaker, or a proxy before it (${response.status})`;
  warn(`${who}; nothing was saved.`, library ? "Reload the page to work in that one." : "Start it there again, or look at the proxy; then try again.");
  event.target.dispatchEvent(new CustomEvent("htmx:response:error", { bubbles: true, detail: event.detail }));
});

/* Without an answer nothing was changed, and the page says so. What asks by itself asks again by itself. */
document.addEventListener("htmx:error", ({ detail: { ctx } }) => {
  if (ctx?.response) return;
  if (ctx && ctx.request.method !== "GET") warn("The server cannot be reached; this is not saved.", "Do it again in a moment.");
  else if (ctx?.sourceEvent?.isTrusted) warn("The server cannot be reached.", "Try again in a moment.");
});

/* So does a plain form: what is changed here was meant for the library that the page shows. */
document.addEventListener("submit", ({ target: form }) => {
  if (form.method !== "post" || form.enctype === "multipart/form-data" || form.querySelector("[name=opened_in]")) return;
  const field = document.createElement("input");
  Object.assign(field, { type: "hidden", name: "opened_in", value: document.body.dataset.library });
  form.append(field);
}, true);

/* A link to something folded unfolds it. */
function unfold() {
  const meant = byId(decodeURIComponent(location.hash.slice(1)));
  if (meant instanceof HTMLDetailsElement) meant.open = true;
}
addEventListener("hashchange", unfold);
unfold();

/* A form is sent once, however often its button is clicked while the answer is on its way. */
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (event.defaultPrevented || form.method !== "post" || form.hasAttribute("hx-post")) return;
  if (form.dataset.sent) return event.preventDefault();
  form.dataset.sent = "1";
  setTimeout(() => { delete form.dataset.sent; }, 3000); // a download leaves the page where it is
});
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});

/* Dialogs open and close by buttons that name them. */
document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-dialog]");
  if (opener) byId(opener.dataset.dialog).showModal();
  if (event.target.closest("[data-close-dialog]")) event.target.closest("dialog").close();
});

/* randomUUID exists only on https and localhost. */
function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/* Below a select of encoders: what the one chosen is for. */
document.addEventListener("change", ({ target }) => {
  const about = target.selectedOptions?.[0]?.dataset.about;
  if (about !== undefined) byId(target.getAttribute("aria-describedby")).textContent = about;
});
