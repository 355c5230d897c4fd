/* Which of two is better, by the arrows; both pictures must have been seen first. */
"use strict";
const GUARD = 120; // ms after a pair appears in which a key is still meant for the one before
let since = performance.now();
new MutationObserver(() => { since = performance.now(); }).observe(byId("main"), { childList: true });

const seen = () => [...document.querySelectorAll(".contestant img")].every((picture) => picture.complete)
  && performance.now() - since >= GUARD;

document.addEventListener("keydown", (event) => {
  if (typing(event.target) || event.repeat) return;
  const verdict = { back: "first", forward: "second", skip: "equal" }[actionOf(event)];
  const onButton = event.target.closest("button, a, summary") !== null;
  if (verdict === "equal" && onButton) return; // Space presses the button in focus
  if (verdict) { if (seen()) document.querySelector(`.pair button[value="${verdict}"]`)?.click(); }
  else if (takesBack(event)) document.querySelector("#pair-undo button:not(:disabled)")?.click();
  else return;
  event.preventDefault();
});
