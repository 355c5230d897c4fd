"use strict";
const assert = require("node:assert/strict");
const { test } = require("node:test");
const { makeOutbox, requestOf } = require("../../static/outbox.js");
const { Clock, Storage, settled } = require("./world.js");

const ADA = { id: 1, name: "Ada" }, BEN = { id: 2, name: "Ben" };

/* An outbox with what it sent, said and was answered. `answers(path, body)` is the server:
   [status, answer], or null where it is not reachable. */
function opened({ storage = new Storage(), clock = new Clock(), person = ADA, project = 1, locks = null, answers = () => [200, {}] } = {}) {
  const log = { sent: [], saved: [], refused: [], changes: [], warned: [], storage, clock };
  const fetch = async (url, { body, headers }) => {
    const [path, sent] = [url.replace(`/api/v1/projects/${project}/`, ""), JSON.parse(body)];
    log.sent.push([path, sent, headers["Tastemaker-Opened-For"]]);
    const answer = answers(path, sent);
    if (!answer) throw new TypeError("not reachable");
    return { status: answer[0], ok: answer[0] < 400, json: async () => answer[1] };
  };
  log.outbox = makeOutbox({
    project, person, browser: { storage, locks, fetch, ...clock },
    saved: (entry, answer) => { log.saved.push([entry.key, answer]); },
    refused: (entry, status, answer) => { log.refused.push([entry.key, status, answer]); },
    changed: (left, late) => { log.changes.push([left, late]); },
    warn: (...words) => { log.warned.push(words); },
  });
  return log;
}

const score = (key, more = {}) => ({ key, kind: "set", value: 3, image_id: 7, expected: 0, ...more });
const keys = ({ outbox }) => outbox.all().map((entry) => entry.key);

test("an entry is sent as its own kind of request, without what only the browser needs", () => {
  const common = { project: 1, person: 1, name: "Ada", at: 5, key: "k" };
  assert.deepEqual(requestOf({ ...common, kind: "set", value: 3, image_id: 7, expected: 4, after: "j", fill: "expected" }),
    ["scores", { key: "k", kind: "set", value: 3, image_id: 7, expected: 4 }]);
  assert.deepEqual(requestOf({ ...common, kind: "undo", event_id: 9, blind: false, back: 7 }), ["undo", { key: "k", event_id: 9 }]);
  const images = [{ image_id: 7, expected: 0 }];
  assert.deepEqual(requestOf({ ...common, kind: "batch", of: "page", images, value: null }), ["batches", { key: "k", images, value: null }]);
  assert.deepEqual(requestOf({ ...common, kind: "undo-batch", of: "page" }), ["batches/undo", { key: "k" }]);
});

test("entries are sent one after the other, oldest first, for the person who made them", async () => {
  const log = opened();
  for (const key of ["a", "b", "c"]) log.outbox.put(score(key)); // at the same millisecond
  assert.deepEqual(keys(log), ["a", "b", "c"]);
  await log.outbox.send();
  assert.deepEqual(log.sent.map(([path, { key }, person]) => [path, key, person]), [["scores", "a", 1], ["scores", "b", 1], ["scores", "c", 1]]);
  assert.deepEqual(keys(log), []);
  assert.deepEqual(log.changes, [[0, false]]);
});

test("what waits survives the page, and is sent again under the same key", async () => {
  let reachable = false;
  const answers = () => (reachable ? [200, { event_id: 4 }] : null);
  const first = opened({ answers });
  first.outbox.put(score("a"));
  await first.outbox.send();
  assert.deepEqual(first.changes, [[1, true], [1, false]]);
  const second = opened({ answers, storage: first.storage });
  reachable = true;
  await second.outbox.send();
  assert.deepEqual(second.saved, [["a", { event_id: 4 }]]);
  assert.deepEqual([...first.sent, ...second.sent].map(([, { key }]) => key), ["a", "a"]);
  assert.equal(first.storage.length, 0);
});

test("sending is tried again after longer and longer pauses, up to ten seconds", async () => {
  const log = opened({ answers: () => null });
  log.outbox.put(score("a"));
  await log.outbox.send();
  for (const pause of [1000, 2000, 4000, 8000, 10000, 10000]) {
    const before = log.sent.length;
    log.clock.forward(pause - 1);
    await settled();
    assert.equal(log.sent.length, before);
    log.clock.forward(1);
    await settled();
    assert.equal(log.sent.length, before + 1);
  }
});

test("a server that is busy, broken or wants a password is asked again", async () => {
  for (const status of [401, 429, 500, 503]) {
    const log = opened({ answers: () => [status, { error: "Not now." }] });
    log.outbox.put(score("a"));
    await log.outbox.send();
    assert.deepEqual(keys(log), ["a"]);
    assert.deepEqual(log.warned, status === 401 ? [["Not now.", "Sign in in another tab; the scores wait here."]] : []);
  }
});

test("an answer that takes long is reported once it does", async () => {
  let arrive;
  const storage = new Storage(), clock = new Clock(), changes = [];
  const fetch = () => new Promise((resolve) => { arrive = () => resolve({ ok: true, status: 200, json: async () => ({}) }); });
  const nothing = () => {};
  const outbox = makeOutbox({
    project: 1, person: ADA, browser: { storage, locks: null, fetch, ...clock },
    saved: nothing, refused: nothing, warn: nothing, changed: (...change) => { changes.push(change); },
  });
  outbox.put(score("a"));
  outbox.send();
  clock.forward(399);
  assert.deepEqual(changes, []);
  clock.forward(1);
  assert.deepEqual(changes, [[1, true]]);
  arrive();
  await settled();
  assert.deepEqual(changes.at(-1), [0, false]);
});

test("a key while the outbox gives its turn back is sent at once", async () => {
  const log = opened({ locks: { request: async (_, act) => {
    const value = await act();
    if (!log.sent.some(([, { key }]) => key === "b")) log.outbox.put(score("b"));
    await settled();
    return value;
  } } });
  log.outbox.put(score("a"));
  await log.outbox.send();
  assert.deepEqual(log.sent.map(([, { key }]) => key), ["a", "b"]);
});

test("an entry that leans on another gets the event that the server gave that one", async () => {
  let event_id = 40;
  const log = opened({ answers: () => [200, { event_id: event_id += 1 }] });
  log.outbox.put(score("a"));
  log.outbox.put(score("b", { expected: undefined, after: "a", fill: "expected" }));
  log.outbox.put({ key: "c", kind: "undo", after: "b", fill: "event_id" });
  await log.outbox.send();
  assert.equal(log.sent[1][1].expected, 41);
  assert.deepEqual(log.sent[2][1], { key: "c", event_id: 42 });
});

test("after a refusal, what leans on it knows what was known before, and its undo goes", async () => {
  const log = opened({ answers: (_, { key }) => (key === "a" ? [409, { error: "No." }] : [200, { event_id: 50 }]) });
  log.outbox.put(score("a", { expected: 12 }));
  log.outbox.put(score("b", { expected: undefined, after: "a", fill: "expected" }));
  log.outbox.put({ key: "c", kind: "undo", after: "a", fill: "event_id" });
  await log.outbox.send();
  assert.deepEqual(log.refused, [["a", 409, { error: "No." }]]);
  assert.deepEqual(log.sent.map(([, { key, expected }]) => [key, expected]), [["a", 12], ["b", 12]]);
});

test("the images of a batch learn their events from the batch before it on the same page", async () => {
  const log = opened({ answers: (_, { key }) => [200, { events: key === "a" ? { 7: 70 } : { 7: 71, 8: 72 } }] });
  const images = [{ image_id: 7, expected: 0 }, { image_id: 8, expected: 3 }];
  log.outbox.put({ key: "a", kind: "batch", of: "page", images, value: 5 });
  log.outbox.put({ key: "b", kind: "batch", of: "page", images, value: 6 });
  log.outbox.put({ key: "c", kind: "batch", of: "another page", images, value: 6 });
  assert.deepEqual(log.outbox.images(), [7, 8, 7, 8, 7, 8]);
  await log.outbox.send();
  const expected = log.sent.map(([, body]) => body.images.map((one) => one.expected));
  assert.deepEqual(expected, [[0, 3], [70, 3], [0, 3]]);
});

test("the undo of a batch of which nothing was saved is not sent", async () => {
  const log = opened({ answers: () => [200, { events: {}, refused: { 7: "Gone." } }] });
  log.outbox.put({ key: "a", kind: "batch", of: "page", images: [{ image_id: 7, expected: 0 }], value: 5 });
  log.outbox.put({ key: "b", kind: "undo-batch", of: "page", after: "a" });
  await log.outbox.send();
  assert.deepEqual(log.sent.map(([path]) => path), ["batches"]);
  assert.deepEqual(log.saved, [["a", { events: {}, refused: { 7: "Gone." } }]]);
});

test("what another person scored in this browser waits for them", async () => {
  const ada = opened();
  ada.outbox.put(score("a"));
  ada.outbox.put(score("b"));
  const ben = opened({ storage: ada.storage, person: BEN });
  assert.deepEqual(ben.warned[0][0], "2 scores by Ada wait in this browser.");
  ben.outbox.put(score("c"));
  await ben.outbox.send();
  assert.deepEqual(ben.sent.map(([, { key }, person]) => [key, person]), [["c", 2]]);
  assert.deepEqual(keys(ada), ["a", "b"]);
});

test("once somebody else scores in this browser, the outbox waits and says so once", async () => {
  let other = true;
  const answer = { code: "somebody-else", error: "Ben scores here by now.", hint: "Reload." };
  const log = opened({ answers: () => (other ? [409, answer] : [200, { event_id: 1 }]) });
  log.outbox.put(score("a"));
  await log.outbox.send();
  await log.outbox.send();
  assert.deepEqual(log.warned, [["Ben scores here by now.", "Reload. What you said waits here until Ada scores again."]]);
  assert.ok(log.outbox.elsewhere());
  assert.deepEqual(keys(log), ["a"]);
  other = false;
  await log.outbox.send();
  assert.ok(!log.outbox.elsewhere());
  assert.deepEqual(keys(log), []);
});

test("another project's scores are left alone, and so is what is no score", async () => {
  const here = opened();
  here.outbox.put(score("a"));
  here.storage.setItem("tastemaker:strip-hidden", "1");
  const there = opened({ storage: here.storage, project: 2 });
  await there.outbox.send();
  assert.deepEqual(there.sent, []);
  assert.deepEqual(keys(here), ["a"]);
});

test("where the browser stores nothing, the page keeps its entries itself", async () => {
  const storage = new Storage();
  storage.full = true;
  const log = opened({ storage });
  log.outbox.put(score("a"));
  log.outbox.put(score("b"));
  assert.deepEqual(keys(log), ["a", "b"]);
  await log.outbox.send();
  assert.deepEqual(keys(log), []);
});
