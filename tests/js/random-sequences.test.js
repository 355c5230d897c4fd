/* Whatever happens in whatever order: every key ends as exactly one entry for the image that was on
   the screen, and the server ends up with what the page shows. */
"use strict";
const assert = require("node:assert/strict");
const { test } = require("node:test");
const { Page, Server, random, settled } = require("./world.js");

const SEQUENCES = 100, EVENTS = 80, IMAGES = 25;

/* One random sequence; `others`: somebody scores and removes images elsewhere meanwhile. */
async function play(seed, others) {
  const next = random(seed), below = (number) => Math.floor(next() * number);
  const server = new Server(IMAGES);
  for (let image_id = 1; image_id <= below(6); image_id += 1) server.append({ image_id, kind: "set", value: 5 });
  let page = new Page(server);
  const undone = new Set(); // the keys of those taken back
  const put = []; // [image, kind, value] of every entry that a key is to make, in order

  /* A key and what it must come to: one more entry for the image that was seen, or none. */
  const key = (name, kind, value) => {
    const before = new Set(keysIn(page)), walking = page.session.position !== null;
    const image_id = page.stage?.image_id;
    const counts = kind === "undo" || (image_id !== undefined && page.seen === image_id && !(kind === "skip" && walking));
    page.press(name);
    const made = page.entries().filter((entry) => !before.has(entry.key));
    assert.equal(made.length, counts ? 1 : 0, `${name} made ${made.length} entries`);
    if (counts && kind !== "undo") {
      assert.deepEqual([made[0].image_id, made[0].kind, made[0].value], [image_id, kind, value]);
      put.push([made[0].key, image_id, kind, value]);
    }
  };
  /* What was scored before the page was opened is taken back by the server's own choice. A score of
     that image before it answered would be refused, rightly, so here it answers first. */
  const undo = () => {
    const blind = page.session.actions.length === 0;
    if (blind) Object.assign(server, { online: true, losing: false }).deliverAll();
    if (blind && page.entries().length) return page.outbox.send();
    undone.add(page.session.actions.at(-1)?.key);
    key("Backspace", "undo");
    return blind ? settled() : null;
  };
  const flag = () => {
    const image_id = page.stage?.image_id;
    if (image_id === undefined) return;
    page.flag();
    const made = page.entries().at(-1);
    assert.deepEqual([made.image_id, made.kind], [image_id, "flag"]);
    put.push([made.key, image_id, "flag", null]);
  };
  const walk = (name) => {
    const entries = page.entries().length;
    page.press(name);
    assert.equal(page.entries().length, entries);
  };
  const score = () => {
    const value = below(11);
    key(value === 10 ? "-" : String(value), "set", value);
  };
  const acts = [
    [8, score],
    [12, () => { page.see(); score(); }],
    [2, () => key(" ", "skip", null)],
    [3, undo],
    [1, flag],
    [3, () => walk("ArrowLeft")],
    [2, () => walk("ArrowRight")],
    [14, () => page.see()],
    [6, () => settled()],
    [2, () => server.hold()],
    [3, () => { server.deliver(); return settled(); }],
    [2, () => { server.deliverAll(); return settled(); }],
    [1, () => { server.online = false; }],
    [2, () => { server.online = true; page.outbox.send(); }],
    [1, () => { server.losing = true; }],
    [2, () => { server.losing = false; }],
    [1, () => page.clock.forward(1000)],
  ];
  if (others) {
    acts.push([1, () => { server.append({ image_id: 1 + below(IMAGES), kind: "set", value: below(11) }); }]);
    acts.push([1, () => { server.removed.add(1 + below(IMAGES)); }]);
  }
  const lot = acts.flatMap(([weight, act]) => Array(weight).fill(act));

  for (let event = 0; event < EVENTS; event += 1) {
    await lot[below(lot.length)]();
    check(page);
    if (page.reloads) page = new Page(server, { storage: page.storage, clock: page.clock });
  }
  Object.assign(server, { online: true, losing: false });
  server.deliverAll();
  for (let round = 0; round < 3; round += 1) {
    await settled();
    await page.outbox.retry();
  }
  await settled();
  for (const entry of page.entries()) {
    assert.ok(server.removed.has(entry.image_id), `nothing is in the way of ${JSON.stringify(entry)}`);
  }
  return { server, page, put, undone };
}

const keysIn = (page) => page.entries().map((entry) => entry.key);

/* No image is at hand twice, and what a key may mean is on the stage. */
function check({ session, stage }) {
  const images = [...session.past, ...session.ahead].map((card) => card.image_id);
  assert.equal(new Set(images).size, images.length, `an image is at hand twice: ${images}`);
  const current = session.current();
  if (current && session.seen === current.image_id) assert.equal(current, stage);
}

test("with one page, every key is saved once, in order, and nothing is refused", async () => {
  let keys = 0;
  for (let seed = 0; seed < SEQUENCES; seed += 1) {
    const { server, page, put } = await play(seed, false);
    const where = `seed ${seed}`;
    const saved = server.events.filter((event) => event.key && event.kind !== "undo");
    assert.deepEqual(saved.map(({ key, image_id, kind, value }) => [key, image_id, kind, value]), put, where);
    const warnings = page.warned.filter(([text]) => text !== "Nothing more to take back.");
    assert.deepEqual(warnings, [], where);
    for (const { image_id, decision, flagged } of page.session.past) {
      assert.deepEqual(server.decision(image_id), decision, `${where}, image ${image_id}`);
      if (flagged) assert.ok(server.standing().some((event) => event.kind === "flag" && event.image_id === image_id), where);
    }
    for (const { image_id } of page.session.ahead) assert.equal(server.decision(image_id), undefined, `${where}, image ${image_id}`);
    keys += put.length;
  }
  assert.ok(keys > 10 * SEQUENCES, `${keys} keys that counted are too few to say anything`);
});

test("with others at it, no key is saved twice or for another image", async () => {
  for (let seed = 0; seed < SEQUENCES; seed += 1) {
    const { server, page, put, undone } = await play(1000 + seed, true);
    const wanted = new Map(put.map(([key, ...score]) => [key, score]));
    const saved = server.events.filter((event) => event.key && event.kind !== "undo");
    assert.equal(new Set(saved.map((event) => event.key)).size, saved.length);
    for (const { key, image_id, kind, value } of saved) {
      assert.deepEqual([image_id, kind, value], wanted.get(key), `seed ${1000 + seed}`);
    }
    // What is neither saved nor waiting gave way to a newer score, or was taken back before it went.
    const there = new Set([...saved, ...page.entries()].map((event) => event.key));
    for (const [key] of put) assert.ok(there.has(key) || server.overtaken.has(key) || undone.has(key), `seed ${1000 + seed}: ${key} is lost`);
    const order = saved.map((event) => put.findIndex(([key]) => key === event.key));
    assert.deepEqual(order, [...order].sort((a, b) => a - b));
  }
});
