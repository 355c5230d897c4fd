"use strict";
const assert = require("node:assert/strict");
const { test } = require("node:test");
const { DEFAULT_KEYS, actionsByKey, actionOf, arrowStep, labelInWords, scoreOf, tagsOf, takesBack, typing, pressesControl } = require("../../static/keys.js");

const press = (key, more = {}) => ({ key, code: "", ...more });
const shift = { shiftKey: true };
const defaults = actionsByKey(DEFAULT_KEYS);

/* What a key does on a keyboard of which nothing else is known yet. */
const alone = (key, code, more = {}) => actionOf({ key, code, ...more }, defaults, { digits: null });

/* The actions of the places 1 … 9, 0 of a row, on a keyboard of its own. */
function row(keys, more = {}) {
  const known = { digits: null };
  return [...keys].map((key, at) => actionOf({ key, code: `Digit${"1234567890"[at]}`, ...more }, defaults, known));
}

const IN_ORDER = [..."1234567890"].map((value) => `score-${value}`);

test("digits give the scores 0 to 9, also on the number pad", () => {
  for (let value = 0; value < 10; value += 1) {
    assert.equal(scoreOf(press(String(value), { code: `Digit${value}` })), value);
    assert.equal(scoreOf(press(String(value), { code: `Numpad${value}` })), value);
  }
});

test("a typed digit is that digit in every script and on every key", () => {
  for (const digits of ["1234567890", "١٢٣٤٥٦٧٨٩٠", "۱۲۳۴۵۶۷۸۹۰", "१२३४५६७८९०", "১২৩৪৫৬৭৮৯০", "๑๒๓๔๕๖๗๘๙๐", "１２３４５６７８９０"]) {
    assert.deepEqual(row(digits), IN_ORDER, digits);
    assert.deepEqual(row(digits, shift), IN_ORDER, `${digits} with Shift`); // French, Czech …
  }
  assert.equal(alone("0", "Backquote"), "score-0"); // Hungarian
  assert.equal(alone("0", "Digit0", shift), "score-0"); // and no ten
  assert.equal(alone("3", "Digit2"), "score-3"); // whatever is printed on the key
  assert.equal(alone("7", "KeyM", { ctrlKey: true, altKey: true, getModifierState: (name) => name === "AltGraph" }), "score-7");
});

test("a row that types no digits is read by its places, and all of it", () => {
  const rows = {
    French: "&é\"'(-è_çà", Belgian: "&é\"'(§è!çà", AFNOR: "àéèê()‘’«»", BÉPO: "\"«»()@+-/*",
    Czech: "+ěščřžýáíé", Slovak: "+ľščťžýáíé", Dvorak: "&[{}(=*)+]", Thai: "ๅ/-ภถ\u0e38\u0e36คตจ",
  };
  for (const [name, keys] of Object.entries(rows)) {
    assert.deepEqual(row(keys), IN_ORDER, name);
    for (const [at, key] of [...keys].entries()) assert.equal(alone(key, `Digit${"1234567890"[at]}`), IN_ORDER[at], `${name} ${key}`);
  }
  assert.deepEqual(row("+ĚŠČŘŽÝÁÍÉ"), IN_ORDER); // with Caps Lock
  assert.deepEqual(row("ⴰⴱⴲⴳⴴⴵⴶⴷⴸⴹ"), IN_ORDER); // a layout nobody listed
});

test("a row that types some digits is never read by its places", () => {
  assert.deepEqual(row("123456789ö"), [...IN_ORDER.slice(0, 9), null]); // Hungarian
  assert.equal(alone("ö", "Digit0"), null);
  assert.equal(alone("Ö", "Digit0", shift), null);
  assert.deepEqual(row("ąčęėįšųū90"), [...Array(8).fill(null), "score-9", "score-0"]); // Lithuanian
  assert.deepEqual(row("1234567ⴷ9ⴹ"), [...IN_ORDER.slice(0, 7), null, "score-9", null]); // one nobody listed
  const learnt = { digits: null };
  actionOf({ key: "2", code: "Digit2", ...shift }, defaults, learnt); // Shift types them
  assert.equal(actionOf({ key: "ⴰ", code: "Digit1" }, defaults, learnt), "score-1");
});

test("ten is a minus, or Shift and 0 where that types no digit", () => {
  assert.equal(alone("-", "Minus"), "score-10");
  assert.equal(alone("-", "Slash"), "score-10"); // Czech, German
  assert.equal(alone("-", "NumpadSubtract"), "score-10");
  assert.equal(alone("−", "Minus"), "score-10");
  assert.equal(alone("－", "Minus"), "score-10"); // full width
  for (const typed of [")", "="]) assert.equal(alone(typed, "Digit0", shift), "score-10");
  assert.equal(alone("-", "Digit6"), "score-6"); // French
  assert.equal(alone("-", "Digit8"), "score-8"); // BÉPO
  assert.equal(alone("!", "Digit1", shift), null);
});

test("a key that types no digit scores nothing", () => {
  const pad = { 0: "Insert", 1: "End", 2: "ArrowDown", 3: "PageDown", 5: "Clear", 6: "ArrowRight", 7: "Home", 8: "ArrowUp", 9: "PageUp" };
  for (const [place, key] of Object.entries(pad)) assert.notEqual(alone(key, `Numpad${place}`)?.slice(0, 5), "score"); // without NumLock
  for (const key of ["Dead", "Process", "Unidentified", "AltGraph"]) {
    for (const place of "1234567890") assert.equal(alone(key, `Digit${place}`), null);
  }
  assert.equal(alone("1", "Digit1", { isComposing: true }), null);
  assert.equal(alone("1", "Digit1", { keyCode: 229 }), null); // an input method that does not say so
  assert.equal(alone("½", "Backquote"), null);
  assert.equal(alone("²", "Backquote"), null);
});

test("the other keys have their actions, wherever the layout has them", () => {
  const actions = { " ": "skip", Backspace: "undo", f: "flag", F: "flag", z: "zoom", ArrowLeft: "back", ArrowRight: "forward" };
  for (const [key, action] of Object.entries(actions)) assert.equal(actionOf(press(key)), action);
  assert.equal(actionOf(press("?", { code: "Slash", ...shift })), "help");
  assert.equal(actionOf(press("?", { code: "Minus", ...shift })), "help");
  assert.equal(actionOf(press("?", { code: "Digit7", ...shift })), "help"); // Russian
  assert.equal(actionOf(press("z", { ctrlKey: true })), "undo");
  assert.equal(actionOf(press("z", { metaKey: true })), "undo");
  assert.ok(takesBack(press("Backspace")));
  assert.ok(!takesBack(press("x")));
});

test("with Ctrl or Alt held no key scores", () => {
  for (const held of ["ctrlKey", "metaKey", "altKey"]) {
    assert.equal(actionOf(press("7", { code: "Digit7", [held]: true })), null);
    assert.equal(actionOf(press("é", { code: "Digit2", [held]: true })), null);
    assert.equal(actionOf(press("f", { [held]: true })), null);
  }
  for (const key of ["q", "Enter", "Escape", "Tab", "F5"]) assert.equal(actionOf(press(key)), null);
});

test("a person's own keys replace the defaults", () => {
  const own = actionsByKey({ ...DEFAULT_KEYS, skip: ["s", "Alt+x"], "score-7": ["j"], "score-2": ["é"] });
  assert.equal(actionOf(press("S"), own), "skip");
  assert.equal(actionOf(press("x", { altKey: true }), own), "skip");
  assert.equal(actionOf(press(" "), own), null);
  assert.equal(actionOf(press("j"), own), "score-7");
  assert.equal(actionOf(press("7", { code: "Digit7" }), own), null);
  assert.equal(actionOf(press("é", { code: "Digit2" }), own), "score-2"); // chosen on a French row
  assert.equal(actionOf(press("-", { code: "Digit6" }), actionsByKey({ ...DEFAULT_KEYS, skip: ["-"], "score-10": ["x"] })), "skip");
});

test("arrows step over tiles by the columns that they lie in", () => {
  const tiles = [0, 0, 0, 50, 50].map((offsetTop) => ({ offsetTop }));
  assert.equal(arrowStep(press("ArrowRight"), tiles), 1);
  assert.equal(arrowStep(press("ArrowLeft"), tiles), -1);
  assert.equal(arrowStep(press("ArrowDown"), tiles), 3);
  assert.equal(arrowStep(press("ArrowUp"), tiles), -3);
  assert.equal(arrowStep(press("ArrowDown", { ctrlKey: true }), tiles), null);
  assert.equal(arrowStep(press("5"), tiles), null);
});

/* What has the focus: an element of this name, on the screen or closed since the last frame. */
const focus = (name, shown) => ({
  closest: (selector) => (selector.split(/[ ,:]+/).includes(name) ? name : null), checkVisibility: () => shown,
});

test("Space and Enter press the control in focus, and no other key does", () => {
  for (const name of ["a", "button", "summary"]) {
    for (const key of [" ", "Enter"]) assert.ok(pressesControl(press(key, { target: focus(name, true) })), name);
    for (const key of ["7", "z", "Backspace"]) assert.ok(!pressesControl(press(key, { target: focus(name, true) })), name);
  }
  assert.ok(!pressesControl(press(" ", { target: focus("body", true) })));
  const box = focus("input[type=checkbox]", true); // Space ticks it and skips nothing; Enter is the page's
  assert.ok(pressesControl(press(" ", { target: box })) && !pressesControl(press("Enter", { target: box })));
});

test("a key is the page's while the focus is still in what was just closed", () => {
  for (const key of [" ", "Enter"]) assert.ok(!pressesControl(press(key, { target: focus("button", false) })));
  for (const name of ["input", "textarea", "select"]) {
    assert.ok(typing(focus(name, true)), name);
    assert.ok(!typing(focus(name, false)), name);
  }
});

test("a class has the key that it is given, a letter or a digit", () => {
  const actions = actionsByKey({ "score-0": ["1"], "score-10": ["q"], "score-12": ["-"], skip: ["Space"] });
  for (const [key, code, action] of [["1", "Digit1", "score-0"], ["q", "KeyQ", "score-10"], ["-", "Slash", "score-12"], [" ", "Space", "skip"], ["2", "Digit2", null]]) {
    assert.equal(actionOf({ key, code }, actions, { digits: null }), action, key);
  }
});

test("a set of tags is taken apart beyond what a bitwise operator takes", () => {
  assert.deepEqual(tagsOf(0), []);
  assert.deepEqual(tagsOf(0b101), [0, 2]);
  assert.deepEqual(tagsOf(2 ** 49 + 2 ** 31 + 1), [0, 31, 49]);
});

test("a label is read by the names of the classes", () => {
  const kinds = { 0: { name: "photo" }, 3: { name: "logo" } };
  assert.equal(labelInWords(kinds, false, 3), "logo");
  assert.equal(labelInWords(kinds, false, 7), "no class");
  assert.equal(labelInWords(kinds, true, 0b1001), "photo, logo");
  assert.equal(labelInWords(kinds, true, 0), "none of the tags");
});
