"use strict";
const assert = require("node:assert/strict");
const { test } = require("node:test");
const { DEFAULT_KEYS, actionsByKey, actionOf, arrowStep, scoreOf, takesBack } = require("../../static/keys.js");

const press = (key, more = {}) => ({ key, code: "", ...more });
const shift = { shiftKey: true };

test("digits give the scores 0 to 9, also on the number pad and where a row gives letters", () => {
  for (let value = 0; value < 10; value += 1) {
    assert.equal(scoreOf(press(String(value), { code: `Digit${value}` })), value);
    assert.equal(scoreOf(press(String(value), { code: `Numpad${value}` })), value);
  }
  assert.equal(scoreOf(press("é", { code: "Digit2" })), 2); // a French row
  assert.equal(scoreOf(press("End", { code: "Numpad1" })), 1); // without NumLock
});

test("ten is a minus, on either side, or Shift and 0", () => {
  assert.equal(scoreOf(press("-", { code: "Minus" })), 10);
  assert.equal(scoreOf(press("-", { code: "NumpadSubtract" })), 10);
  assert.equal(scoreOf(press(")", { code: "Digit0", ...shift })), 10);
  assert.equal(scoreOf(press("0", { code: "Digit0", ...shift })), 10); // a French row
  assert.equal(scoreOf(press("!", { code: "Digit1", ...shift })), null);
});

test("the other keys have their actions, wherever the layout has them", () => {
  const actions = { " ": "skip", Backspace: "undo", f: "flag", F: "flag", z: "zoom", ArrowLeft: "back", ArrowRight: "forward" };
  for (const [key, action] of Object.entries(actions)) assert.equal(actionOf(press(key)), action);
  assert.equal(actionOf(press("?", { code: "Slash", ...shift })), "help");
  assert.equal(actionOf(press("?", { code: "Minus", ...shift })), "help");
  assert.equal(actionOf(press("z", { ctrlKey: true })), "undo");
  assert.equal(actionOf(press("z", { metaKey: true })), "undo");
  assert.ok(takesBack(press("Backspace")));
  assert.ok(!takesBack(press("x")));
});

test("with Ctrl or Alt held, and while a character is composed, no key scores", () => {
  for (const held of ["ctrlKey", "metaKey", "altKey"]) {
    assert.equal(actionOf(press("7", { code: "Digit7", [held]: true })), null);
    assert.equal(actionOf(press("f", { [held]: true })), null);
  }
  assert.equal(actionOf(press("7", { code: "Digit7", isComposing: true })), null);
  for (const key of ["x", "Enter", "Escape", "Tab", "F5", "Dead"]) assert.equal(actionOf(press(key)), null);
});

test("a person's own keys replace the defaults", () => {
  const own = actionsByKey({ ...DEFAULT_KEYS, skip: ["s", "Alt+x"], "score-7": ["j"] });
  assert.equal(actionOf(press("S"), own), "skip");
  assert.equal(actionOf(press("x", { altKey: true }), own), "skip");
  assert.equal(actionOf(press(" "), own), null);
  assert.equal(actionOf(press("j"), own), "score-7");
  assert.equal(actionOf(press("7", { code: "Digit7" }), own), null);
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
