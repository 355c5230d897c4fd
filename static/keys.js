/* What a key means to the person at it. The page brings their own choices (`data-keys` on the body:
   action → keys); pages that bring none use the defaults.

   What is typed is what counts: a digit is that digit, in whatever script and on whatever key of
   whatever layout. Where the row above the letters types no digits (French, Belgian, BÉPO, Czech …),
   it is read by its places, and then all of it: a minus on it is no ten. What types nothing (a number
   pad without NumLock, a dead key, a character that is still being composed) scores nothing. */
"use strict";
const DEFAULT_KEYS = {
  ...Object.fromEntries([...Array(10).keys()].map((value) => [`score-${value}`, [String(value)]])),
  "score-10": ["-", "Shift+0"], skip: ["Space"], undo: ["Backspace", "Ctrl+z"], flag: ["f"],
  pick: ["p"], reject: ["x"], zoom: ["z"], back: ["ArrowLeft"], forward: ["ArrowRight"], help: ["?"],
};

/* The zeros of the scripts whose digits keyboards type, each with its one to nine after it: ASCII,
   Arabic, Persian and Urdu, N’Ko, Devanagari, Bengali, Gurmukhi, Gujarati, Oriya, Tamil, Telugu,
   Kannada, Malayalam, Thai, Lao, Tibetan, Burmese, Khmer, Mongolian, full width. */
const ZEROS = [
  0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xe50,
  0xed0, 0xf20, 0x1040, 0x17e0, 0x1810, 0xff10,
];

/* What the places 1 … 9, 0 type without Shift on layouts that have no digit there. */
const ROWS_WITHOUT_DIGITS = [
  "&é\"'(-è_çà", "&é\"'(§è!çà", "àéèê()‘’«»", // French, Belgian and that of macOS, French of AFNOR
  "\"«»()@+-/*", // BÉPO
  "+ěščřžýáíé", "+ľščťžýáíé", // Czech, Slovak
  "&[{}(=*)+]", // Programmer Dvorak
  "ăâêô\u0300\u0309\u0303\u0301đ₫", "ๅ/-ภถ\u0e38\u0e36คตจ", // Vietnamese, Thai
];
/* The same of layouts that have digits there, but not at every place. */
const ROWS_WITH_SOME = ["123456789ö", "ąčęėįšųū90"]; // Hungarian, Lithuanian

const PLACES = "1234567890";
const pairsOf = (rows) => new Set(rows.flatMap((row) => [...row].map((key, at) => key + PLACES[at])));
const WITHOUT = pairsOf(ROWS_WITHOUT_DIGITS), WITH = pairsOf(ROWS_WITH_SOME);

const TYPES_NOTHING = ["Dead", "Process", "Unidentified", "AltGraph"]; // yet, or at all

/* key → action, of action → keys. */
function actionsByKey(choices) {
  return new Map(Object.entries(choices).flatMap(([action, keys]) => keys.map((key) => [key, action])));
}

const ownKeys = typeof document === "object" && document.body.dataset.keys;
const ownActions = actionsByKey(ownKeys ? JSON.parse(ownKeys) : DEFAULT_KEYS);

/* What the keys so far tell of the layout: `digits`, whether its row types some without Shift. */
const ownRow = { digits: null };

/* The digit that is typed, as 0 … 9 are written; null for any other key. */
function typedDigit(key) {
  const point = [...key].length === 1 ? key.codePointAt(0) : NaN;
  const zero = ZEROS.find((first) => point >= first && point <= first + 9);
  return zero === undefined ? null : String(point - zero);
}

/* The key's place in the row of digits, as the digit that stands there on most; null elsewhere. */
const placeOf = (event) => /^Digit([0-9])$/.exec(event.code)?.[1] ?? null;

/* The name of the key, as `data-keys` writes it. Shift counts only where the layout makes no other
   character of it, so that “?” is “?” wherever it lies. */
function keyName(event) {
  const wide = /^[\uff01-\uff5e]$/.test(event.key); // full width, as Japanese and Chinese input types
  const key = event.key.length === 1 ? (wide ? event.key.normalize("NFKC") : event.key).toLowerCase() : event.key;
  const plain = key === " " ? "Space" : key === "−" ? "-" : key;
  return (event.ctrlKey || event.metaKey ? "Ctrl+" : "") + (event.altKey ? "Alt+" : "") + plain;
}

/* Whether this key of the row, which types no digit, is read by its place. */
function readByPlace(event, place, row) {
  const pair = event.key.toLowerCase() + place;
  if (WITHOUT.has(pair)) row.digits = false;
  if (WITHOUT.has(pair) || WITH.has(pair)) return WITHOUT.has(pair);
  return row.digits !== true;
}

/* What a key does: "score-7", "skip", "undo" …; null for any other key. */
function actionOf(event, actions = ownActions, row = ownRow) {
  if (event.isComposing || event.keyCode === 229) return null; // an input method has it
  if (TYPES_NOTHING.includes(event.key)) return null;
  const composed = event.getModifierState?.("AltGraph") ?? false; // AltGr says Ctrl and Alt as well
  const held = !composed && (event.ctrlKey || event.metaKey || event.altKey);
  if (held) return actions.get(keyName(event)) ?? null;
  const digit = typedDigit(event.key), place = event.key.length === 1 ? placeOf(event) : null;
  if (digit !== null) {
    const locked = event.getModifierState?.("CapsLock") ?? false;
    if (place !== null && !composed && !locked) row.digits = !event.shiftKey;
    return actions.get(digit) ?? null;
  }
  if (composed) return null;
  const name = keyName(event), named = actions.get(name) ?? null;
  const chosen = named && !(name === "-" && named === "score-10"); // a minus in the row is a place of it
  if (place === null || chosen || (event.shiftKey && named)) return named;
  if (event.shiftKey) return WITH.has(event.key.toLowerCase() + place) ? null : actions.get(`Shift+${place}`) ?? null;
  return readByPlace(event, place, row) ? actions.get(place) ?? null : named;
}

/* The numbers of the tags in a label that is a set of them: each is a bit, and there may be more
   than a bitwise operator takes. */
function tagsOf(value) {
  const numbers = [];
  for (let number = 0, rest = value; rest > 0; number += 1, rest = Math.floor(rest / 2)) if (rest % 2) numbers.push(number);
  return numbers;
}

/* A label as it is read: of the class with that number, or of tags their names. */
function labelInWords(kinds, several, value) {
  const names = (several ? tagsOf(value) : [value]).map((number) => kinds[number]?.name).filter(Boolean);
  return names.join(", ") || (several ? "none of the tags" : "no class");
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

/* What the focus is in, by a selector; null where that is not on the screen. A control that was just
   closed or hidden has the focus until the next frame, which a busy machine paints late: a key that
   comes before it is meant for the page. */
const focusIn = (target, selector) => (target.checkVisibility() ? target.closest(selector) : null);

/* Whether the key goes into a field, or into a dialog that is open. */
function typing(target) {
  return focusIn(target, "input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable], dialog[open]") !== null;
}

/* Whether the key presses the control in focus, as Space and Enter do. */
function pressesControl({ key, target }) {
  if (key === " " && focusIn(target, "input[type=checkbox], input[type=radio]") !== null) return true;
  return (key === " " || key === "Enter") && focusIn(target, "a, button, summary") !== null;
}

if (typeof module === "object") module.exports = { DEFAULT_KEYS, tagsOf, labelInWords, actionsByKey, actionOf, scoreOfAction, scoreOf, takesBack, arrowStep, typing, pressesControl };
