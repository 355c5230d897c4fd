/* The picture on the stage, and those around it: three ahead and two back are decoded, the rest of
   what is in hand is fetched, so that the next one is painted at once. */
"use strict";

function makeStage(stage) {
  const SEEN = 120; // milliseconds that a picture is on the screen before a key can mean it
  const RETRY = 2000;
  const pictures = new Map(); // image id → its element, decoded or on its way
  const fetched = new Set();
  let seeing = 0, now = null;

  function picture(card) {
    const known = pictures.get(card.image_id);
    if (known) return known;
    const sent = stage.querySelector(`img[data-image="${card.image_id}"]`); // by the server
    const image = sent ?? document.createElement(card.view ? "img" : "p");
    image.dataset.image = card.image_id;
    image.draggable = false;
    if (!card.view) Object.assign(image, { className: "no-pixels", textContent: "No picture here" });
    else if (!sent) Object.assign(image, { alt: card.name, src: at(card.view) });
    image.ready = !card.view ? Promise.resolve(true)
      : image.decode().catch(() => {}).then(() => image.complete && image.naturalWidth > 0);
    pictures.set(card.image_id, image);
    return image;
  }

  /* Put a card's picture up. `seen` is called once it was there long enough to be judged, `unseen`
     when there is none to judge. */
  function show(card, { seen, unseen }) {
    now = card;
    clearTimeout(seeing);
    const image = picture(card);
    if (stage.firstElementChild !== image || stage.childElementCount > 1) stage.replaceChildren(image);
    image.ready.then((ok) => {
      if (now !== card) return;
      if (!ok) return missing(card, { seen, unseen });
      requestAnimationFrame(() => { seeing = setTimeout(() => { if (now === card) seen(); }, SEEN); });
    });
  }

  /* Have these decoded, and forget the others. Decoding takes the processor from painting, so not
     before the picture that was asked for is on the screen. */
  function keep(cards) {
    cards.forEach(picture);
    const kept = new Set(cards.map((card) => card.image_id));
    for (const id of pictures.keys()) if (!kept.has(id)) pictures.delete(id);
  }

  /* Offline, or while something else has the address, a picture comes again; one that the server has
     lost does not. */
  async function missing(card, how) {
    pictures.delete(card.image_id);
    explain(card, "This picture cannot be loaded. Trying again; you can skip it.");
    seeing = setTimeout(() => { if (now === card) how.unseen(); }, SEEN);
    const answer = await fetch(at(card.view), { method: "HEAD" }).catch(() => null);
    if (now !== card) return;
    const its = answer?.headers.get("Tastemaker-Library") === document.body.dataset.library;
    if (its && (answer.status === 404 || answer.ok)) {
      if (answer.status === 404 || card.tried) {
        return explain(card, "There is no picture to show for this image any more. Skip it to go on.");
      }
      card.tried = true;
    }
    setTimeout(() => { if (now === card) show(card, how); }, RETRY);
  }

  function explain(card, text) {
    const sentence = document.createElement("p");
    sentence.textContent = text;
    if (card) sentence.dataset.image = card.image_id;
    stage.replaceChildren(sentence);
  }

  function empty(text = "") {
    now = null;
    clearTimeout(seeing);
    if (text) explain(null, text);
    else stage.replaceChildren();
  }

  function fetchAhead(cards) {
    for (const card of cards) {
      if (!card.view || fetched.has(card.image_id) || pictures.has(card.image_id)) continue;
      fetched.add(card.image_id);
      new Image().src = at(card.view); // into the browser's cache: these addresses never change
    }
  }

  return { show, keep, empty, fetchAhead, prepare: (cards) => cards.forEach(picture), SEEN };
}
