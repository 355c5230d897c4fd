"use strict";
const assert = require("node:assert/strict");
const { test } = require("node:test");
const { groupOf, linesOf } = require("../../static/waiting.js");

const HERE = "the-library";
const entry = (key, more = {}) => ({ key, library: HERE, project: 1, person: 1, name: "Ada", kind: "set", value: 3, image_id: 7, sha256: "a7", at: 1000, ...more });

test("each entry is listed under the reason why it waits", () => {
  const away = { text: "The server does not answer.", hint: "It is tried again by itself." };
  const held = { text: "This image is not in the library.", hint: "Go on." };
  assert.equal(groupOf(entry("a"), HERE, away).title, away.text);
  assert.equal(groupOf(entry("a", { held }), HERE, away).title, held.text);
  assert.match(groupOf(entry("a", { held }), HERE, null).text, /Go on\. It is tried again every minute/);
  assert.match(groupOf(entry("a", { name: "Ben" }), HERE, null).text, /while Ben scores here/);
  const another = groupOf(entry("a", { library: "another", held }), HERE, away);
  assert.match(`${another.title} ${another.text}`, /another library.*once it is served.*another/);
  const former = groupOf(entry("a", { library: undefined }), HERE, away);
  assert.ok(former.offer && !another.offer, "only what belongs to no library can be sent to this one");
  assert.equal(groupOf({ key: "a", unreadable: "{half" }, HERE, away).title, "Cannot be read");
});

test("the file holds every score that no other entry takes back, and the rest lies beside it", () => {
  const images = [{ image_id: 8, sha256: "a8" }, { image_id: 9, sha256: "a9" }];
  const { scores, rest } = linesOf([
    entry("zero", { value: 0 }), entry("undone"), entry("undo", { kind: "undo", after: "undone", value: undefined }),
    entry("batch", { kind: "batch", images, value: 10, image_id: undefined, sha256: undefined }),
    entry("skip", { kind: "skip", value: null }), entry("flag", { kind: "flag", value: null, note: "odd" }),
    entry("former", { library: undefined, sha256: undefined }), entry("blind", { kind: "undo", value: undefined }),
    { key: "half", unreadable: "{half", at: 0 },
  ]);
  const rows = scores.map((line) => JSON.parse(line));
  assert.deepEqual(rows.map(({ sha256, score }) => [sha256, score]), [["a7", 0], ["a8", 10], ["a9", 10]]);
  assert.deepEqual(rows[0], { sha256: "a7", score: 0, annotator: "Ada", scored_at: "1970-01-01T00:00:01.000Z", library: HERE, project: 1, key: "zero" });
  assert.deepEqual(rest.map((line) => JSON.parse(line).key), ["skip", "flag", "former", "blind", "half"]);
});
