/* What a key means to the person at it. The page brings their own choices (`data-keys` on the body:
   action → keys); pages that bring none use the defaults. */
"use strict";
const DEFAULT_KEYS = {
  ...Object.fromEntries([...Array(10).keys()].map((value) => [`score-${value}`, [String(value)]])),
  "score-10": ["-", "Shift+0"], skip: ["Space"], undo: ["Backspace", "Ctrl+z"], flag: ["f"],
  zoom: ["z"], back: ["ArrowLeft"], forward: ["ArrowRight"], help: ["?"],
};

/* key → action, of action → keys. */
function actionsByKey(choices) {
  return new Map(Object.entries(choices).flatMap(([action, keys]) => keys.map((key) => [key, action])));
}

const ownKeys = typeof document === "object" && document.body.dataset.keys;
const ownActions = actionsByKey(ownKeys ? JSON.parse(ownKeys) : DEFAULT_KEYS);

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
function actionOf(event, actions = ownActions) {
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

/* The score of an action; null for any other action. */
const scoreOfAction = (action) => (action?.startsWith("score-") ? Number(action.slice(6)) : null);

/* The score that a key gives; null for any other key. */
const scoreOf = (event) => scoreOfAction(actionOf(event));

const takesBack = (event) => actionOf(event) === "undo";

/* How far an arrow key goes among tiles in rows; null for any other key. */
function arrowStep(event, tiles) {
  if (event.ctrlKey || event.metaKey || event.altKey) return null;
  if (event.key === "ArrowRight") return 1;
  if (event.key === "ArrowLeft") return -1;
  if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return null;
  const columns = tiles.filter((tile) => tile.offsetTop === tiles[0].offsetTop).length;
  return event.key === "ArrowDown" ? columns : -columns;
}

function typing(target) {
  return target.closest("input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable], dialog[open]") !== null;
}

if (typeof module === "object") module.exports = { DEFAULT_KEYS, actionsByKey, actionOf, scoreOfAction, scoreOf, takesBack, arrowStep };
