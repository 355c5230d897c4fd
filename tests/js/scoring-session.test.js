"use strict";
const assert = require("node:assert/strict");
const { test } = require("node:test");
const { Page, Server, settled } = require("./world.js");

const stored = (server) => server.events.map(({ image_id, kind, value }) => [image_id, kind, value]);
const left = (page) => page.entries().length;

async function opened(images, options = {}) {
  const server = new Server(images), page = new Page(server, options);
  await settled();
  return [server, page];
}

test("each of many rapid keys scores the image that was seen", async () => {
  const [server, page] = await opened(30, { ahead: 12 });
  const expected = [];
  for (let number = 0; number < 24; number += 1) {
    expected.push([page.see(), "set", number % 10]);
    page.press(String(number % 10));
    if (number % 5 === 4) await settled(); // now and then an answer comes in between
  }
  await settled();
  assert.deepEqual(stored(server), expected);
  assert.equal(new Set(expected.map(([image]) => image)).size, 24);
  assert.deepEqual(page.warned, []);
});

test("a key for an image that nobody has seen does nothing but show it", async () => {
  const [server, page] = await opened(6);
  const first = page.see();
  page.press("7");
  page.press("3");
  page.press(" ");
  assert.equal(page.ignored, 2);
  const second = await page.judge("5");
  assert.deepEqual(stored(server), [[first, "set", 7], [second, "set", 5]]);
});

test("a picture that was seen once must be seen again when it comes back", async () => {
  const [, page] = await opened(4);
  await page.judge("3");
  page.press("Backspace");
  page.press("4");
  assert.equal(page.ignored, 1);
});

test("a held key scores once, and walks on", async () => {
  const [server, page] = await opened(6);
  page.see();
  page.press("6");
  page.see();
  page.press("6", { repeat: true });
  page.press(" ", { repeat: true });
  page.press("Backspace", { repeat: true });
  await settled();
  assert.equal(server.events.length, 1);
  page.press("ArrowLeft", { repeat: true });
  assert.equal(page.stage.image_id, 1);
});

test("keys for parts of the page are left to the page", async () => {
  const [, page] = await opened(2);
  for (const key of ["z", "f", "?"]) page.press(key);
  assert.deepEqual(page.opened, ["zoom", "flag", "help"]);
});

test("a score says what the page knew of the image and why it was offered", async () => {
  const [server, page] = await opened(9, { queue: "start" });
  for (let number = 0; number < 5; number += 1) await page.judge("4");
  const [path, { key, ...sent }] = server.requests[4];
  assert.equal(path, "scores");
  assert.ok(key);
  assert.deepEqual(sent, {
    image_id: 5, kind: "set", value: 4, note: "", queue: "start", expected: 0,
    offer: "offer of 5", reason: "reason 5",
  });
});

test("undo brings back several, the newest first", async () => {
  const [server, page] = await opened(8);
  const images = [];
  for (const key of "258") images.push(await page.judge(key));
  for (const image of [...images].reverse()) {
    page.press("Backspace");
    assert.equal(page.stage.image_id, image);
  }
  await settled();
  assert.deepEqual(stored(server).slice(3), [3, 2, 1].map((image) => [image, "undo", null]));
  assert.deepEqual(server.standing(), []);
  assert.deepEqual(page.session.ahead.slice(0, 3).map((card) => card.image_id), images);
  assert.equal(page.session.labelled, 0);
});

test("undo of a score that is not saved yet waits for it", async () => {
  const [server, page] = await opened(5);
  server.hold();
  await page.judge("3");
  page.press("Backspace");
  await settled();
  assert.equal(server.events.length, 1);
  server.deliverAll();
  await settled();
  assert.deepEqual(stored(server), [[1, "set", 3], [1, "undo", null]]);
  assert.equal(await page.judge("9"), 1);
  assert.deepEqual(server.decision(1), { kind: "set", value: 9 });
  assert.deepEqual(page.warned, []);
});

test("undo of what was scored before the page was opened is the server's to know", async () => {
  const server = new Server(5);
  server.append({ image_id: 1, kind: "set", value: 3 });
  const page = new Page(server);
  await settled();
  assert.equal(page.stage.image_id, 2);
  page.press("Backspace");
  await settled();
  assert.equal(page.stage.image_id, 1);
  assert.deepEqual(page.session.past, []);
  page.press("Backspace");
  await settled();
  assert.deepEqual(page.warned, [["Nothing more to take back.", undefined]]);
  assert.equal(page.stage.image_id, 1);
});

test("a refused undo leaves the score as it was, and the next one is the server's to know", async () => {
  const [server, page] = await opened(6);
  await page.judge("5");
  await page.judge("4");
  server.append({ image_id: 6, kind: "set", value: 9 }); // elsewhere
  page.press("Backspace");
  assert.equal(page.stage.image_id, 2);
  await settled();
  assert.equal(page.warned.at(-1)[0], "Something newer was scored since.");
  assert.equal(page.stage.image_id, 3);
  assert.deepEqual(server.decision(2), { kind: "set", value: 4 });
  page.press("Backspace");
  await settled();
  assert.equal(page.stage.image_id, 6); // the newest there is
});

test("a refused undo of a flag takes no image off the stage", async () => {
  const [server, page] = await opened(6);
  page.see();
  page.flag("odd");
  await settled();
  server.append({ image_id: 6, kind: "set", value: 9 });
  page.press("Backspace");
  await settled();
  assert.equal(page.stage.image_id, 1);
});

test("a skip moves on and is no score", async () => {
  const [server, page] = await opened(4);
  await page.judge(" ");
  assert.equal(page.stage.image_id, 2);
  assert.deepEqual(stored(server), [[1, "skip", null]]);
  assert.equal(page.session.labelled, 0);
  assert.equal(page.announced.at(-1), "Skipped. Next image, 1 of 4: picture-2.");
});

test("an image without a picture can be skipped and not scored", async () => {
  const [server, page] = await opened(4);
  page.session.pictureMissing(page.stage);
  page.press("5");
  assert.equal(page.ignored, 1);
  page.press(" ");
  await settled();
  assert.deepEqual(stored(server), [[1, "skip", null]]);
});

test("a flag keeps the card, also one that is not painted yet, and can be taken back", async () => {
  const [server, page] = await opened(4);
  page.flag("look again, 8");
  assert.equal(page.stage.image_id, 1);
  assert.equal(page.about.card.flagged, true);
  await page.judge("6");
  assert.deepEqual(stored(server), [[1, "flag", null], [1, "set", 6]]);
  assert.equal(server.requests[0][1].note, "look again, 8");
  page.press("Backspace");
  page.press("Backspace");
  await settled();
  assert.deepEqual(server.standing(), []);
  assert.equal(page.stage.flagged, undefined);
  assert.deepEqual(page.warned, []);
});

test("a refused flag is taken off the card, which stays", async () => {
  const [server, page] = await opened(4);
  server.append({ image_id: 1, kind: "set", value: 4 }); // elsewhere
  page.flag();
  await settled();
  assert.equal(page.stage.image_id, 1);
  assert.equal(page.stage.flagged, false);
  assert.equal(page.warned.length, 1);
});

test("the past is walked back and corrected with one key, which goes on to the next", async () => {
  const server = new Server(10);
  for (const [image_id, value] of [[1, 2], [2, 9]]) server.append({ image_id, kind: "set", value });
  const page = new Page(server);
  await settled();
  assert.equal(await page.judge("4"), 3);
  for (const image of [3, 2, 1]) {
    page.press("ArrowLeft");
    assert.equal(page.see(), image);
  }
  assert.deepEqual(page.about.decision, { kind: "set", value: 2 });
  assert.equal(page.about.back, 3);
  await settled();
  page.press("ArrowLeft");
  assert.equal(page.announced.at(-1), "There is nothing before this.");
  assert.equal(await page.judge("7"), 1);
  assert.equal(page.stage.image_id, 2);
  assert.deepEqual(server.decision(1), { kind: "set", value: 7 });
  page.press("Backspace");
  assert.equal(page.stage.image_id, 1);
  assert.deepEqual(page.session.about().decision, { kind: "set", value: 2 });
  for (let step = 0; step < 3; step += 1) page.press("ArrowRight");
  assert.equal(page.stage.image_id, 4);
  assert.equal(page.announced.at(-1), "Back at the image to score.");
  page.press("ArrowRight");
  assert.equal(page.stage.image_id, 4);
});

test("a skip in the past goes on without a word to the server", async () => {
  const [server, page] = await opened(5);
  await page.judge("3");
  page.press("ArrowLeft");
  await page.judge(" ");
  assert.equal(page.stage.image_id, 2);
  assert.equal(server.events.length, 1);
});

test("steps back that came before the history wait for it", async () => {
  const server = new Server(30);
  for (let image_id = 1; image_id <= 20; image_id += 1) server.append({ image_id, kind: "set", value: 5 });
  server.hold();
  const page = new Page(server);
  page.press("ArrowLeft");
  page.press("ArrowLeft");
  assert.equal(page.stage.image_id, 21);
  server.deliverAll();
  await settled();
  assert.equal(page.stage.image_id, 19);
  for (let image_id = 18; image_id >= 1; image_id -= 1) {
    page.press("ArrowLeft");
    await settled();
    assert.equal(page.stage.image_id, image_id);
  }
  const asked = page.wishes.filter(([name]) => name === "history").map(([, wish]) => wish.before);
  assert.deepEqual(asked, [0, 9, 1]);
});

test("a step back without a connection says so and is tried again with the next key", async () => {
  const server = new Server(5);
  server.append({ image_id: 1, kind: "set", value: 5 });
  server.online = false;
  const page = new Page(server);
  await settled();
  page.press("ArrowLeft");
  await settled();
  assert.equal(page.announced.at(-1), "There is nothing before this.");
  server.online = true;
  page.press("ArrowLeft");
  await settled();
  assert.equal(page.stage.image_id, 1);
});

test("a score and its correction wait together and arrive in order", async () => {
  const [server, page] = await opened(8);
  server.online = false;
  await page.judge("3");
  page.press("ArrowLeft");
  await page.judge("8");
  await page.judge("5");
  assert.equal(left(page), 3);
  assert.deepEqual(page.note, { left: 3, visible: true });
  server.online = true;
  await page.outbox.send();
  assert.deepEqual(stored(server), [[1, "set", 3], [1, "set", 8], [2, "set", 5]]);
  assert.deepEqual(page.note, { left: 0, visible: true });
  assert.deepEqual(page.warned, []);
});

test("after a reload without a connection, what waits is not scored again", async () => {
  const [server, page] = await opened(10);
  server.losing = true; // saved, and nobody hears of it
  const images = [];
  for (const key of "258") images.push(await page.judge(key));
  const again = new Page(server, { storage: page.storage, clock: page.clock, ahead: 6 });
  await settled();
  assert.equal(left(again), 3);
  assert.ok(!images.includes(again.stage.image_id));
  server.losing = false;
  await again.outbox.send();
  assert.equal(left(again), 0);
  assert.deepEqual(stored(server), [[1, "set", 2], [2, "set", 5], [3, "set", 8]]);
});

test("an answer that comes late or twice changes nothing more", async () => {
  const [server, page] = await opened(6);
  server.hold();
  const image = await page.judge("4");
  const [entry] = page.entries();
  await page.judge(" ");
  server.deliverAll();
  await settled();
  const before = JSON.stringify([page.session.past, page.session.ahead]);
  page.session.saved(entry, { event_id: 1, image_id: image });
  assert.equal(JSON.stringify([page.session.past, page.session.ahead]), before);
  assert.deepEqual(stored(server), [[1, "set", 4], [2, "skip", null]]);
  assert.equal(page.refreshed, 2);
});

test("of two scores for one image the first is kept, and the second press means it", async () => {
  const [server, page] = await opened(6);
  server.append({ image_id: 1, kind: "set", value: 9 });
  await page.judge("2");
  assert.deepEqual(page.warned, [["9 there, 2 here", ""]]);
  assert.deepEqual(stored(server), [[1, "set", 9]]);
  assert.equal(page.stage.image_id, 1);
  assert.equal(page.stage.reason, "reason 1");
  assert.deepEqual(page.session.past.map((card) => card.image_id), []); // nothing of it was saved
  await page.judge("2");
  assert.deepEqual(server.decision(1), { kind: "set", value: 2 });
  assert.equal(page.warned.length, 1);
});

test("the undo of a score that was refused is not sent", async () => {
  const [server, page] = await opened(6);
  server.append({ image_id: 1, kind: "set", value: 9 });
  server.hold();
  await page.judge("2");
  page.press("Backspace");
  server.deliverAll();
  await settled();
  assert.deepEqual(stored(server), [[1, "set", 9]]);
  assert.equal(page.stage.image_id, 1);
  assert.equal(page.session.ahead.filter((card) => card.image_id === 1).length, 1);
  assert.equal(left(page), 0);
});

test("without a connection to look, an image scored elsewhere leaves the stage to the next", async () => {
  const [server, page] = await opened(6);
  server.append({ image_id: 1, kind: "set", value: 9 });
  page.see();
  page.press("2");
  server.online = false;
  await settled();
  assert.equal(page.stage.image_id, 2);
});

test("a score of an image that was removed meanwhile waits, with the reason, and scoring goes on", async () => {
  const [server, page] = await opened(4);
  server.removed.add(1);
  await page.judge("5");
  assert.equal(page.warned.length, 1);
  assert.match(page.warned[0].join(" "), /taken out of the project.*waits in this browser/);
  assert.deepEqual(page.note, { left: 1, visible: true });
  assert.equal(page.why.text, "This image was taken out of the project meanwhile.");
  assert.equal(await page.judge("6"), 2);
  assert.deepEqual(stored(server), [[2, "set", 6]]);
  assert.deepEqual(page.entries().map(({ image_id, value, held }) => [image_id, value, Boolean(held)]), [[1, 5, true]]);
  assert.equal(page.warned.length, 1);
});

test("taken back, a score that cannot be saved waits no more, and the server hears nothing of it", async () => {
  const [server, page] = await opened(4);
  server.removed.add(1);
  await page.judge("5");
  page.press("Backspace");
  await settled();
  assert.deepEqual(page.entries(), []);
  assert.deepEqual(server.requests.map(([path]) => path), ["scores"]);
  assert.equal(page.stage.image_id, 1);
});

test("with nothing left but what waits, the page says so and is not loaded again and again", async () => {
  const [server, page] = await opened(2);
  server.removed.add(1);
  await page.judge("5");
  await page.judge("6");
  await settled();
  assert.equal(page.reloads, 0);
  assert.match(page.text, /Nothing else is left/);
  server.removed.delete(1);
  await page.outbox.retry();
  await settled();
  assert.deepEqual(stored(server), [[2, "set", 6], [1, "set", 5]]);
  assert.equal(page.reloads, 1);
});

test("that everything is saved is not said where a score gave way to a newer one", async () => {
  const [server, page] = await opened(4);
  server.online = false;
  await page.judge("5");
  server.online = true;
  server.append({ image_id: 1, kind: "set", value: 9 });
  await page.outbox.retry();
  await settled();
  assert.deepEqual(page.note, { left: 0, visible: false });
  server.online = false;
  await page.judge("6");
  server.online = true;
  await page.outbox.retry();
  await settled();
  assert.deepEqual(page.note, { left: 0, visible: true }); // now it is
});

test("an image of the past that is gone leaves the one on the stage where it is", async () => {
  const [server, page] = await opened(5);
  server.removed.add(1);
  server.hold();
  await page.judge("3");
  await page.judge("4");
  page.press("ArrowLeft");
  assert.equal(page.see(), 2);
  server.deliverAll();
  await settled();
  assert.equal(page.session.current(), page.stage);
  assert.equal(await page.judge("8"), 2);
  assert.deepEqual(server.decision(2), { kind: "set", value: 8 });
});

test("a card that comes while the past is walked is not at hand twice", async () => {
  const server = new Server(5);
  const before = server.append({ image_id: 1, kind: "set", value: 3 });
  const page = new Page(server, { ahead: 1 });
  await settled();
  server.append({ image_id: 1, kind: "undo", undoes: before.id }); // elsewhere
  server.hold();
  page.see();
  page.press("ArrowLeft");
  server.deliverAll();
  await settled();
  assert.equal(page.stage.image_id, 1);
  assert.deepEqual(page.session.ahead.map((card) => card.image_id), [2, 3, 4, 5]);
});

test("the queue is filled while cards are at hand, without those at hand or waiting", async () => {
  const [server, page] = await opened(40);
  server.online = false;
  const first = await page.judge("1");
  server.online = true;
  page.see();
  const [, { n, exclude }] = page.wishes.findLast(([name]) => name === "queue");
  assert.equal(n, 12);
  assert.deepEqual(exclude, [2, 3, 4, first]);
  await settled();
  const images = page.session.ahead.map((card) => card.image_id);
  assert.deepEqual(images, [...new Set(images)]);
  assert.ok(images.length >= 12 && !images.includes(first));
  page.see();
  const wishes = page.wishes.length;
  await page.judge("2");
  page.see();
  assert.equal(page.wishes.length, wishes); // enough for now
});

test("a queue that runs dry waits for what is on its way, then leaves to the server's page", async () => {
  const [server, page] = await opened(2);
  server.hold();
  await page.judge("3");
  await page.judge("4");
  assert.equal(page.stage, null);
  assert.equal(page.reloads, 0);
  page.press("5");
  page.press(" ");
  assert.equal(left(page), 2);
  server.deliverAll();
  await settled();
  assert.equal(page.reloads, 1);
  assert.deepEqual(stored(server), [[1, "set", 3], [2, "set", 4]]);
});

test("a queue that was dry goes on with what came in meanwhile", async () => {
  const [server, page] = await opened(2);
  server.online = false;
  await page.judge("3");
  await page.judge("4");
  assert.match(page.text, /Not connected/);
  server.images.push(3, 4);
  server.online = true;
  await page.outbox.send();
  await settled();
  assert.equal(page.reloads, 0);
  assert.equal(await page.judge("5"), 3);
  assert.deepEqual(stored(server), [[1, "set", 3], [2, "set", 4], [3, "set", 5]]);
});

test("a queue that was asked for cards before the last key is asked again after it", async () => {
  const [server, page] = await opened(2);
  await page.judge("3");
  server.hold();
  page.see(); // with one card at hand, more are asked for: there are none
  server.rest();
  page.press("4"); // saved before that answer arrives
  await settled();
  assert.equal(page.reloads, 0);
  server.deliver();
  await settled();
  assert.equal(page.reloads, 1);
});

test("what another tab has scored meanwhile is not offered by an answer that was on its way", async () => {
  const [server, page] = await opened(6, { ahead: 2 });
  const { storage, clock } = page, other = new Page(server, { storage, clock, ahead: 6 });
  await settled();
  server.hold();
  page.see();
  server.losing = true;
  for (const key of "123") await other.judge(key);
  server.deliverAll();
  await settled();
  assert.deepEqual(page.session.ahead.map((card) => card.image_id), [1, 2, 4, 5, 6]);
});

test("the last image can be taken back while its score is on its way", async () => {
  const [server, page] = await opened(1);
  server.hold();
  await page.judge("3");
  page.press("Backspace");
  assert.equal(page.stage.image_id, 1);
  server.deliverAll();
  await settled();
  assert.equal(page.reloads, 0);
  assert.equal(await page.judge("8"), 1);
});

test("blind images keep their prediction until the key, also where others show it first", async () => {
  const [, page] = await opened(6, { showFirst: true });
  for (let image = 1; image <= 5; image += 1) {
    page.see();
    assert.equal(page.about.predicts, image !== 5);
    await page.judge("3");
  }
  page.see();
  assert.equal(page.about.previous.image_id, 5);
  const [, blind] = await opened(1, { showFirst: false });
  blind.see();
  assert.equal(blind.about.predicts, false);
});

test("what was just scored is told apart from what was scored before", async () => {
  const server = new Server(5);
  server.append({ image_id: 1, kind: "set", value: 3 });
  const page = new Page(server);
  await settled();
  assert.deepEqual([page.about.previous.image_id, page.about.scoredHere], [1, false]);
  await page.judge("3");
  page.see();
  assert.deepEqual([page.about.previous.image_id, page.about.scoredHere], [2, true]);
  assert.equal(page.announced.at(-1), "Saved 3. Next image, 3 of 5: picture-3.");
});

test("the pictures kept are those around the stage", async () => {
  const [, page] = await opened(20, { ahead: 10 });
  for (const key of "1234") await page.judge(key);
  page.see();
  assert.deepEqual(page.kept.map((card) => card.image_id), [5, 6, 7, 8, 3, 4]);
  page.press("ArrowLeft");
  page.see();
  assert.deepEqual(page.kept.map((card) => card.image_id), [4, 5, 6, 7, 2, 3]);
});

test("scores of the page for many, sent from here, are reported as such", async () => {
  const [, page] = await opened(3);
  const entry = { kind: "batch", key: "many", images: [{ image_id: 2 }, { image_id: 3 }], at: 1 };
  const effects = page.session.saved(entry, { events: { 2: 7 }, refused: { 3: "It is gone." } });
  assert.deepEqual(effects, [
    ["saved", 1], ["warn", "1 of 2 were left as they are.", "It is gone."],
    ["announce", "Saved for 1 images."], ["refresh"],
  ]);
  assert.deepEqual(page.session.refused({ ...entry, kind: "undo-batch" }, 404, { error: "Nothing.", hint: "" }),
    [["warn", "Nothing.", ""]]);
});
