/* Which of two is better, by the arrows or a click; both pictures must have been seen first. */
"use strict";
const GUARD = 120; // ms that both pictures are on the screen before a key or a click can mean them
const DOUBLE = 500; // ms in which a second click still belongs to the first
const RETRY = 2000;
const pairForm = () => document.querySelector("form.pair");
let seen = null; // the form whose pictures were there to be judged; it says so: data-ready
let judged = -DOUBLE; // when a click last judged

/* Wait until both pictures are painted. One that does not load cannot be judged. */
async function look() {
  const form = pairForm();
  seen = null;
  if (!form) return;
  const pictures = [...form.querySelectorAll("img")];
  for (let warned = false; form.isConnected; warned = true) {
    try {
      await Promise.all(pictures.map((picture) => picture.decode()));
      if (warned) quiet();
      break;
    } catch {
      if (!warned) warn("A picture of this pair does not load, so the pair cannot be judged yet.", "It is tried again.");
      await new Promise((again) => setTimeout(again, RETRY));
      for (const picture of pictures) if (!picture.naturalWidth) picture.src = picture.getAttribute("src");
    }
  }
  requestAnimationFrame(() => setTimeout(() => { if (pairForm() === form) may(form); }, GUARD));
}
function may(form) {
  seen = form;
  form.dataset.ready = "";
}
new MutationObserver(() => { quiet(); look(); }).observe(byId("main"), { childList: true });
look();

/* Before htmx hears of it: what came too early is not sent, and a pair is sent once. */
document.addEventListener("click", (event) => {
  const byHand = event.isTrusted && event.detail > 0 && event.target.closest(".pair button");
  if (!byHand) return;
  if (event.timeStamp - judged < DOUBLE) event.preventDefault();
  else if (seen) judged = event.timeStamp;
}, true);
document.addEventListener("submit", (event) => {
  if (event.target !== pairForm()) return;
  if (seen === event.target) {
    seen = null;
    delete event.target.dataset.ready;
    return;
  }
  event.preventDefault();
  event.stopPropagation();
  ignored(event.target);
}, true);

/* What came before both pictures were seen shows that it did not count, or it would look lost. */
function ignored(form) {
  form.classList.add("ignored");
  setTimeout(() => form.classList.remove("ignored"), GUARD);
}

/* The pair stays until it is saved. A refusal comes as a toast; no answer comes with it. */
document.addEventListener("htmx:error", (event) => {
  const form = event.target.closest?.("#pair form");
  if (!form) return;
  if (form === pairForm()) warn("The server cannot be reached; this pair is not saved.", "It stays here: judge it again in a moment.");
  else warn("The server cannot be reached; nothing was taken back.", "Try again in a moment.");
});
document.addEventListener("htmx:finally:request", (event) => {
  if (event.target === pairForm()) may(event.target); // still here, so it may be judged again
});

document.addEventListener("keydown", (event) => {
  if (typing(event.target) || event.repeat || pressesControl(event)) return;
  const verdict = { back: "first", forward: "second", skip: "equal" }[actionOf(event)];
  if (verdict) document.querySelector(`.pair button[value="${verdict}"]`)?.click();
  else if (takesBack(event)) document.querySelector("#pair-undo button:not(:disabled)")?.click();
  else return;
  event.preventDefault();
});
