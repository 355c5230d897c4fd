/* What a key means to the person at it. The page brings their own choices (`data-keys` on the body:
   action → keys); pages that bring none use the defaults. */
"use strict";
const keysOf = document.body.dataset.keys ? JSON.parse(document.body.dataset.keys) : {
  ...Object.fromEntries([...Array(10).keys()].map((value) => [`score-${value}`, [String(value)]])),
  "score-10": ["-", "Shift+0"], skip: ["Space"], undo: ["Backspace", "Ctrl+z"], flag: ["f"],
  zoom: ["z"], back: ["ArrowLeft"], forward: ["ArrowRight"], help: ["?"],
};
const actions = new Map(
  Object.entries(keysOf).flatMap(([action, keys]) => keys.map((key) => [key, action])));

/* The name of the key, as `data-keys` writes it. Shift counts only where the layout makes no other
   character of it, so that “?” is “?” wherever it lies. */
function keyName(event) {
  const plain = event.key === " " ? "Space" : event.key.length === 1 ? event.key.toLowerCase() : event.key;
  return (event.ctrlKey || event.metaKey ? "Ctrl+" : "") + (event.altKey ? "Alt+" : "") + plain;
}

/* The digit of a key by its place: for rows that give é, à … unshifted, and for Shift on them. */
function digitOf(event) {
  const place = /^(?:Digit|Numpad)([0-9])$/.exec(event.code);
  return place ? place[1] : null;
}

/* What a key does: "score-7", "skip", "undo" …; null for any other key. */
function actionOf(event) {
  if (event.isComposing) return null;
  const held = event.ctrlKey || event.metaKey || event.altKey;
  const digit = held ? null : digitOf(event);
  if (event.shiftKey && digit !== null && !actions.has(event.key)) return actions.get(`Shift+${digit}`) ?? null;
  if (event.shiftKey && digit !== null && event.key === digit) return actions.get(`Shift+${digit}`) ?? null;
  const named = actions.get(keyName(event));
  if (named) return named;
  if (held || event.shiftKey) return null;
  if (event.code === "NumpadSubtract") return actions.get("-") ?? null;
  return (digit !== null && actions.get(digit)) || null;
}

/* The score that a key gives; null for any other key. */
function scoreOf(event) {
  const action = actionOf(event);
  return action?.startsWith("score-") ? Number(action.slice(6)) : null;
}

function takesBack(event) {
  return actionOf(event) === "undo";
}

function typing(target) {
  return target.closest("input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable], dialog[open]") !== null;
}
