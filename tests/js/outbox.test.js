"use strict";
const assert = require("node:assert/strict");
const { test } = require("node:test");
const { makeOutbox, makeStore, requestOf } = require("../../static/outbox.js");
const { Clock, LIBRARY, Storage, response, settled } = require("./world.js");

const ADA = { id: 1, name: "Ada" }, BEN = { id: 2, name: "Ben" };
const NOBODY = null; // whose answer it is, where it is not this program's

/* What this program answers where it saved what was sent. */
function receipt(path, sent, more = {}) {
  const about = path === "scores" ? { event_id: 1, image_id: sent.image_id }
    : path === "batches" ? { events: Object.fromEntries(sent.images.map((one) => [one.image_id, 1])), refused: {}, stale: [] } : {};
  return { saved: true, library: LIBRARY, key: sent.key, ...about, ...more };
}

/* An outbox with what it sent, said and was answered. `answers(path, body)` is what is at the
   address: [status, answer, library] (this library without one, null for another program; `answer`
   undefined: no JSON), or null where nothing is. */
function opened({ storage = new Storage(), clock = new Clock(), person = ADA, project = 1, library = LIBRARY, locks = null, answers = (path, sent) => [200, receipt(path, sent)] } = {}) {
  const log = { sent: [], saved: [], refused: [], held: [], changes: [], warned: [], whys: [], storage, clock };
  const fetch = async (url, { body, headers }) => {
    const [path, sent] = [url.replace(`/api/v1/projects/${project}/`, ""), JSON.parse(body)];
    log.sent.push([path, sent, headers["Tastemaker-Opened-For"], headers["Tastemaker-Library"]]);
    const answer = answers(path, sent);
    if (!answer) throw new TypeError("not reachable");
    return response(...answer);
  };
  log.store = makeStore(storage);
  log.outbox = makeOutbox({
    library, project, person, browser: { store: log.store, locks, fetch, ...clock },
    saved: (entry, answer) => { log.saved.push([entry.key, answer]); },
    refused: (entry, status, answer) => { log.refused.push([entry.key, status, answer]); },
    held: (entry, reason) => { log.held.push([entry.key, reason.text]); },
    changed: (left, late, why) => { log.changes.push([left, late]); log.whys.push(why); },
    warn: (...words) => { log.warned.push(words); },
  });
  return log;
}

const score = (key, more = {}) => ({ key, kind: "set", value: 3, image_id: 7, expected: 0, ...more });
const keys = ({ outbox }) => outbox.all().map((entry) => entry.key);
const sentKeys = (log) => log.sent.map(([, { key }]) => key);

test("an entry is sent as its own kind of request, without what only the browser needs", () => {
  const common = { library: LIBRARY, project: 1, person: 1, name: "Ada", at: 5, key: "k", sent: true, held: {}, title: "a.jpg", thumb: "/t" };
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
  const of = (key) => ["scores", key, 1, LIBRARY];
  assert.deepEqual(log.sent.map(([path, { key }, ...whose]) => [path, key, ...whose]), [of("a"), of("b"), of("c")]);
  assert.deepEqual(keys(log), []);
  assert.deepEqual(log.changes, [[0, false]]);
});

test("what waits survives the page, and is sent again under the same key", async () => {
  let reachable = false;
  const answers = (path, sent) => (reachable ? [200, receipt(path, sent, { event_id: 4 })] : null);
  const first = opened({ answers });
  first.outbox.put(score("a"));
  await first.outbox.send();
  assert.deepEqual(first.changes, [[1, true], [1, false]]);
  const second = opened({ answers, storage: first.storage });
  reachable = true;
  await second.outbox.send();
  assert.deepEqual(second.saved.map(([key, { event_id }]) => [key, event_id]), [["a", 4]]);
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

/* Whatever comes back that is not this program's own word about this entry, it waits with a reason,
   and is stored once it can be. */
const REFUSALS = {
  "nobody signed in": [401, { error: "You are not signed in.", hint: "" }],
  "a name that is not allowed": [403, { error: "This server does not answer under that name.", hint: "Add taste.lan." }],
  "a role that may not": [403, { error: "Only an annotator can do this.", hint: "" }],
  "a deleted project": [404, { error: "There is no such project.", hint: "" }],
  "a deleted image": [404, { error: "This image is not in the library.", hint: "" }],
  "no such address, after an upgrade": [404, { error: "There is no such page.", hint: "" }],
  "another picture under this id": [409, { error: "Here this is another picture.", code: "another-image", hint: "" }],
  "a key in use": [409, { error: "This request key was used for another score.", hint: "" }],
  "a conflict about another entry": [409, { error: "9 there", code: "stale", image_id: 7, key: "another", hint: "" }],
  "a conflict about another image": [409, { error: "9 there", code: "stale", image_id: 8, key: "a", hint: "" }],
  "an undo's answer to a score": [409, { error: "Nothing to undo", code: "no-undo", key: "a", hint: "" }],
  "another person": [409, { error: "Ben scores here.", code: "somebody-else", hint: "" }],
  "a body that is too large": [413, { error: "This request is larger than any form here.", hint: "" }],
  "a field that is not known any more": [422, { error: "“queue” cannot be used.", hint: "" }],
  "too many requests": [429, { error: "Too many.", hint: "" }],
  "a fault": [500, { error: "Something went wrong.", hint: "" }],
  "a busy database": [503, { error: "The database is busy.", hint: "" }],
  "a full disk": [507, { error: "The disk is full.", hint: "" }],
  "an answer without a receipt": [200, {}],
  "a receipt of the former version": [200, { event_id: 4, saved: true, image_id: 7 }],
  "a receipt for another entry": [200, { saved: true, library: LIBRARY, key: "another", image_id: 7, event_id: 4 }],
  "a receipt for another image": [200, { saved: true, library: LIBRARY, key: "a", image_id: 8, event_id: 4 }],
  "a receipt that says no": [200, { saved: false, library: LIBRARY, key: "a", image_id: 7, event_id: 4 }],
  "another library": [409, { error: "Another library.", code: "another-library", hint: "" }, "another"],
  "another library that would take it": [200, { saved: true, library: "another", key: "a", image_id: 7, event_id: 4 }, "another"],
  "a program's own 404": [404, { detail: "Not Found" }, NOBODY],
  "a program that takes anything": [200, { saved: true, event_id: 4, image_id: 7, key: "a" }, NOBODY],
  "a program's page": [200, undefined, NOBODY],
  "a list": [200, [], NOBODY],
  "null": [200, null, NOBODY],
  "a proxy's page that asks for a password": [401, undefined, NOBODY],
  "a proxy that forbids": [403, undefined, NOBODY],
  "a proxy that takes no body of this size": [413, undefined, NOBODY],
  "a proxy without its server": [502, undefined, NOBODY],
  "a proxy that gave up": [504, undefined, NOBODY],
  "nothing": null,
};
for (const [what, answer] of Object.entries(REFUSALS)) {
  test(`after ${what} an entry waits, says why, and is saved once it can be`, async () => {
    let there = false;
    const log = opened({ answers: (path, sent) => (there ? [200, receipt(path, sent)] : answer) });
    log.outbox.put(score("a"));
    await log.outbox.send();
    assert.deepEqual([keys(log), log.saved, log.refused], [["a"], [], []]);
    const { text, hint } = log.whys.at(-1);
    assert.ok(text && hint !== undefined, "it says why");
    assert.ok(log.changes.every(([left]) => left === 1), "it never looks saved");
    assert.deepEqual(log.store.all().map(({ value, image_id, library }) => [value, image_id, library]), [[3, 7, LIBRARY]]);
    there = true;
    await log.outbox.retry();
    assert.deepEqual([keys(log), log.saved.length], [[], 1]);
    assert.deepEqual(log.changes.at(-1), [0, false]);
    assert.equal(log.whys.at(-1), null);
    assert.deepEqual([...new Set(sentKeys(log))], ["a"]);
  });
}

test("that nobody is signed in is a reason to wait that says where to sign in, not a second message", async () => {
  const log = opened({ answers: () => REFUSALS["nobody signed in"] });
  log.outbox.put(score("a"));
  await log.outbox.send();
  assert.deepEqual([log.whys.at(-1).signIn, log.warned.length], [true, 0]);
});

test("what somebody must do something about is said at once, and once", async () => {
  for (const answer of [REFUSALS["a proxy's page that asks for a password"], REFUSALS["a name that is not allowed"], REFUSALS["another library"]]) {
    const log = opened({ answers: () => answer });
    log.outbox.put(score("a"));
    await log.outbox.send();
    await log.outbox.send();
    assert.equal(log.warned.length, 1);
  }
});

test("an entry that cannot be saved holds up only what leans on it", async () => {
  for (const poison of [REFUSALS["a deleted image"], REFUSALS["a fault"], REFUSALS["a proxy that forbids"], REFUSALS["a field that is not known any more"]]) {
    const log = opened({ answers: (path, sent) => (sent.image_id === 7 ? poison : [200, receipt(path, sent)]) });
    log.outbox.put(score("a"));
    log.outbox.put(score("b", { image_id: 8 }));
    log.outbox.put(score("c", { expected: undefined, after: "a", fill: "expected" })); // a correction of a
    log.outbox.put(score("d", { image_id: 9 }));
    log.outbox.put({ key: "e", kind: "undo", after: "d", fill: "event_id" });
    log.outbox.put({ key: "f", kind: "batch", of: "page", value: 5, images: [{ image_id: 10, expected: 0 }, { image_id: 7, expected: 0 }] }); // also of 7
    await log.outbox.send();
    assert.deepEqual(log.saved.map(([key]) => key), ["b", "d", "e"]);
    assert.deepEqual(keys(log), ["a", "c", "f"]);
  }
});

test("many that cannot be saved hold up none of the others", async () => {
  for (const poison of [REFUSALS["a deleted image"], REFUSALS["a fault"], REFUSALS["a proxy that forbids"]]) {
    const log = opened({ answers: (path, sent) => (sent.image_id < 100 ? poison : [200, receipt(path, sent)]) });
    for (let image_id = 1; image_id <= 10; image_id += 1) log.outbox.put(score(`a${image_id}`, { image_id }));
    for (let image_id = 101; image_id <= 110; image_id += 1) log.outbox.put(score(`b${image_id}`, { image_id }));
    for (let round = 0; round < 6; round += 1) await log.outbox.send();
    assert.equal(log.saved.length, 10);
    assert.equal(keys(log).length, 10);
    assert.ok(log.sent.length < 40, "and the server is not flooded");
  }
});

test("without a server nothing but the first entry is tried, and all arrive in their order", async () => {
  for (const away of [null, REFUSALS["a proxy without its server"], REFUSALS["a busy database"], REFUSALS["nobody signed in"]]) {
    let there = false;
    const log = opened({ answers: (path, sent) => (there ? [200, receipt(path, sent)] : away) });
    for (let image_id = 1; image_id <= 5; image_id += 1) log.outbox.put(score(`a${image_id}`, { image_id }));
    await log.outbox.send();
    assert.deepEqual(sentKeys(log), ["a1"]);
    there = true;
    await log.outbox.send();
    assert.deepEqual(log.saved.map(([key]) => key), ["a1", "a2", "a3", "a4", "a5"]);
  }
});

test("what was refused is tried again after a minute, when the page is opened, and on demand", async () => {
  const log = opened({ answers: () => REFUSALS["a deleted image"] });
  log.outbox.put(score("a"));
  await log.outbox.send();
  await log.outbox.send();
  assert.equal(log.sent.length, 1);
  log.clock.forward(60000);
  await settled();
  assert.equal(log.sent.length, 2);
  await log.outbox.retry();
  assert.equal(log.sent.length, 3);
  assert.deepEqual(log.held.map(([key]) => key), ["a"]); // said once
  const later = opened({ storage: log.storage });
  assert.equal(later.outbox.why().text, "This image is not in the library."); // known before it is tried
  await later.outbox.send();
  assert.deepEqual([later.sent.length, keys(later)], [1, []]);
});

test("a score that cannot be saved and was taken back goes with its undo", async () => {
  const log = opened({ answers: (path, sent) => (sent.image_id === 7 ? REFUSALS["a deleted image"] : [200, receipt(path, sent)]) });
  log.outbox.put(score("a"));
  await log.outbox.send();
  log.outbox.put(score("b", { expected: undefined, after: "a", fill: "expected" }));
  log.outbox.put({ key: "c", kind: "undo", after: "b", fill: "event_id" });
  log.outbox.put({ key: "d", kind: "undo", after: "a", fill: "event_id" });
  log.outbox.put(score("e", { image_id: 8 }));
  await log.outbox.send();
  assert.deepEqual(sentKeys(log), ["a", "e"]);
  assert.deepEqual(keys(log), []);
});

test("an undo whose score may have been saved is not dropped with it", async () => {
  let lost = true;
  const log = opened({ answers: (path, sent) => (lost ? null : [200, receipt(path, sent)]) });
  log.outbox.put(score("a"));
  await log.outbox.send(); // the answer is lost: perhaps it is saved
  log.outbox.put({ key: "b", kind: "undo", after: "a", fill: "event_id" });
  lost = false;
  await log.outbox.send();
  assert.deepEqual(sentKeys(log), ["a", "a", "b"]);
});

test("of a batch, images that cannot be saved wait; one scored elsewhere meanwhile is told", async () => {
  let back = false;
  const answers = (path, sent) => (back ? [200, receipt(path, sent)]
    : [200, receipt(path, sent, { events: { 7: 70 }, refused: { 8: "It is gone.", 9: "9 there, 5 here" }, stale: [9] })]);
  const log = opened({ answers });
  const images = [7, 8, 9].map((image_id) => ({ image_id, expected: 0 }));
  log.outbox.put({ key: "a", kind: "batch", of: "page", images, value: 5 });
  await log.outbox.send();
  assert.deepEqual(log.saved.map(([, { events, refused }]) => [events, refused]), [[{ 7: 70 }, { 9: "9 there, 5 here" }]]);
  assert.deepEqual(log.outbox.images(), [8]);
  assert.deepEqual(log.held, [["a", "It is gone."]]);
  back = true;
  await log.outbox.retry();
  assert.deepEqual(log.sent[1][1], { key: "a", value: 5, images: [{ image_id: 8, expected: 0 }] });
  assert.deepEqual(keys(log), []);
});

test("the undo of a batch that was saved in part takes that part back", async () => {
  const log = opened({ answers: (path, sent) => [200, receipt(path, sent, path === "batches" ? { events: { 7: 70 }, refused: { 8: "It is gone." } } : {})] });
  log.outbox.put({ key: "a", kind: "batch", of: "page", images: [7, 8].map((image_id) => ({ image_id, expected: 0 })), value: 5 });
  await log.outbox.send();
  log.outbox.put({ key: "b", kind: "undo-batch", of: "page", after: "a" });
  await log.outbox.send();
  assert.deepEqual(log.sent.map(([path]) => path), ["batches", "batches/undo"]);
  assert.deepEqual(keys(log), []);
});

test("a batch leaves only once every image of it is answered for", async () => {
  const log = opened({ answers: (path, sent) => [200, receipt(path, sent, { events: { 7: 70 } })] });
  log.outbox.put({ key: "a", kind: "batch", of: "page", images: [7, 8].map((image_id) => ({ image_id, expected: 0 })), value: 5 });
  await log.outbox.send();
  assert.deepEqual(keys(log), ["a"]);
});

test("what was scored in another library waits for it, and so does what is of none", async () => {
  const there = opened({ library: "another" });
  there.outbox.put(score("a"));
  there.storage.setItem("tastemaker:outbox:b", JSON.stringify(score("b", { project: 1, person: 1, name: "Ada", at: 1 }))); // before libraries
  const here = opened({ storage: there.storage });
  here.outbox.put(score("c"));
  await here.outbox.send();
  assert.deepEqual(sentKeys(here), ["c"]);
  assert.deepEqual(here.store.all().map(({ key, library }) => [key, library]), [["b", undefined], ["a", "another"]]);
  await there.outbox.send();
  assert.deepEqual(there.sent.map(([, { key }, , library]) => [key, library]), [["a", "another"]]);
});

test("what cannot be read is kept and shown, and stops nothing", async () => {
  const storage = new Storage();
  for (const [name, text] of [["a", "{half"], ["b", "null"], ["c", "[]"]]) storage.setItem(`tastemaker:outbox-2:${name}`, text);
  const log = opened({ storage });
  log.outbox.put(score("d"));
  await log.outbox.send();
  assert.deepEqual(keys(log), []);
  assert.deepEqual(log.store.all().map(({ unreadable }) => unreadable).sort(), ["[]", "null", "{half"]);
  log.store.all().forEach(log.store.remove);
  assert.equal(storage.length, 0);
});

test("where site data is blocked, the page keeps its entries itself and knows that it does", async () => {
  const store = makeStore(null);
  assert.ok(store.blocked());
  store.put(score("a", { at: 2 }));
  store.put(score("b", { at: 1 }));
  assert.deepEqual([store.all().map(({ key }) => key), store.onlyHere()], [["b", "a"], 2]);
  store.remove({ key: "a" });
  assert.equal(store.onlyHere(), 1);
  const gone = { get length() { throw new Error("SecurityError"); }, getItem() { throw new Error(); }, setItem() { throw new Error(); }, removeItem() { throw new Error(); } };
  const log = opened({ storage: gone }); // blocked while the page is open
  log.outbox.put(score("c"));
  await log.outbox.send();
  assert.deepEqual([log.saved.length, keys(log)], [1, []]);
});

test("locks that are missing or denied hold nothing up", async () => {
  for (const locks of [undefined, { request: async () => { throw new Error("SecurityError"); } }]) {
    const log = opened({ locks });
    log.outbox.put(score("a"));
    await log.outbox.send();
    assert.deepEqual([sentKeys(log), keys(log)], [["a"], []]);
  }
});

test("a request that is never answered is given up after half a minute", async () => {
  const clock = new Clock(), log = opened({ clock });
  let given;
  const fetch = (_, { signal }) => new Promise((resolve, reject) => { given = signal; signal.addEventListener("abort", () => reject(new Error("given up"))); });
  const outbox = makeOutbox({
    library: LIBRARY, project: 1, person: ADA, browser: { store: log.store, locks: null, fetch, ...clock },
    saved: () => {}, refused: () => {}, changed: () => {}, warn: () => {},
  });
  outbox.put(score("a"));
  const sending = outbox.send();
  clock.forward(29999);
  assert.ok(!given.aborted);
  clock.forward(1);
  await sending;
  assert.ok(given.aborted);
  assert.equal(outbox.all().length, 1);
});

test("an answer that takes long is reported once it does", async () => {
  let arrive;
  const storage = new Storage(), clock = new Clock(), changes = [];
  const fetch = (_, { body }) => new Promise((resolve) => { arrive = () => resolve(response(200, receipt("scores", JSON.parse(body)))); });
  const nothing = () => {};
  const outbox = makeOutbox({
    library: LIBRARY, project: 1, person: ADA, browser: { storage, locks: null, fetch, ...clock },
    saved: nothing, refused: nothing, warn: nothing, changed: (left, late) => { changes.push([left, late]); },
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
  const log = opened({ answers: (path, sent) => [200, receipt(path, sent, { event_id: event_id += 1 })] });
  log.outbox.put(score("a"));
  log.outbox.put(score("b", { expected: undefined, after: "a", fill: "expected" }));
  log.outbox.put({ key: "c", kind: "undo", after: "b", fill: "event_id" });
  await log.outbox.send();
  assert.equal(log.sent[1][1].expected, 41);
  assert.deepEqual(log.sent[2][1], { key: "c", event_id: 42 });
});

test("after a refusal, what leans on it knows what was known before, and its undo goes", async () => {
  const no = { error: "No.", code: "stale", key: "a", image_id: 7 };
  const log = opened({ answers: (path, sent) => (sent.key === "a" ? [409, no] : [200, receipt(path, sent)]) });
  log.outbox.put(score("a", { expected: 12 }));
  log.outbox.put(score("b", { expected: undefined, after: "a", fill: "expected" }));
  log.outbox.put({ key: "c", kind: "undo", after: "a", fill: "event_id" });
  await log.outbox.send();
  assert.deepEqual(log.refused, [["a", 409, no]]);
  assert.deepEqual(log.sent.map(([, { key, expected }]) => [key, expected]), [["a", 12], ["b", 12]]);
});

test("the images of a batch learn their events from the batch before it on the same page", async () => {
  const answers = (path, sent) => [200, receipt(path, sent, { events: sent.key === "a" ? { 7: 70 } : { 7: 71, 8: 72 }, refused: { 8: "8 there" }, stale: [8] })];
  const log = opened({ answers });
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
  const log = opened({ answers: (path, sent) => [200, receipt(path, sent, { events: {}, refused: { 7: "9 there." }, stale: [7] })] });
  log.outbox.put({ key: "a", kind: "batch", of: "page", images: [{ image_id: 7, expected: 0 }], value: 5 });
  log.outbox.put({ key: "b", kind: "undo-batch", of: "page", after: "a" });
  await log.outbox.send();
  assert.deepEqual(log.sent.map(([path]) => path), ["batches"]);
  assert.deepEqual(log.saved.map(([key, { refused }]) => [key, refused]), [["a", { 7: "9 there." }]]);
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
  const log = opened({ answers: (path, sent) => (other ? [409, answer] : [200, receipt(path, sent)]) });
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

test("a page that fails to show what was saved holds up none of the others", async () => {
  const { store, clock } = opened(), sent = [];
  const outbox = makeOutbox({
    library: LIBRARY, project: 1, person: ADA,
    browser: { store, locks: null, ...clock, fetch: async (_, { body }) => {
      const entry = JSON.parse(body);
      sent.push(entry.key);
      return response(200, receipt("scores", entry));
    } },
    saved: (entry) => { if (entry.key === "a") throw new Error("a fault of the page"); },
    refused: () => {}, changed: () => {}, warn: () => {},
  });
  outbox.put(score("a"));
  outbox.put(score("b", { image_id: 8 }));
  await assert.rejects(outbox.send(), /a fault of the page/);
  clock.forward(1000);
  await settled();
  assert.deepEqual([sent, outbox.all()], [["a", "b"], []]);
});
