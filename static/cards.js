/* A page of cards: the arrows walk over them, a score key corrects the one in focus. And the undo
   key of a page that has run out of them. */
"use strict";

/* Review (`data-carry-on`) goes on by itself: a score, or Enter for the one that stands, settles a
   card and the next open one is in focus; after the last one, once all are saved, comes the next
   page. Taken back, a card is open again and in focus. */
function walking(grid) {
  const carriesOn = "carryOn" in grid.dataset;
  const all = () => [...grid.querySelectorAll("[data-card]")];
  const isSettled = (card) => card.querySelector(".verdict.changed") !== null;
  const isOpen = (card) => !isSettled(card) && !("sent" in card.dataset);
  const look = (card) => {
    card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest" });
  };

  function settle(card, button) {
    delete card.dataset.failed;
    button.click();
    if (!carriesOn) return;
    card.dataset.sent = "1";
    const cards = all(), at = cards.indexOf(card);
    const next = [...cards.slice(at + 1), ...cards.slice(0, at)].find(isOpen);
    if (next) look(next);
  }

  document.addEventListener("keydown", (event) => {
    if (typing(event.target) || (event.repeat && !event.key.startsWith("Arrow"))) return;
    const cards = all();
    const card = event.target.closest("[data-card]");
    const value = scoreOf(event);
    const agrees = card && event.target === card && event.key === "Enter" && carriesOn;
    const given = agrees ? card.querySelector('button[aria-pressed="true"]') : null;
    const tag = card && value !== null ? card.querySelector(`input[name=tag][value="${value}"]`) : null;
    const button = card && value !== null ? card.querySelector(`button[value="${value}"]`) : null;
    if (tag) tag.click();
    else if (button) settle(card, button);
    else if (agrees && card.querySelector(".save-tags")) settle(card, card.querySelector(".save-tags"));
    else if (given) settle(card, given);
    else if (agrees) warn("This image has no label yet.", "A key gives one; Enter agrees with one that stands.");
    else if (takesBack(event)) byId("toast").querySelector("[data-undo] button")?.click();
    else {
      const step = arrowStep(event, cards);
      if (step === null) return;
      (cards[card ? cards.indexOf(card) + step : 0] ?? card)?.focus();
    }
    event.preventDefault();
  });

  if (!carriesOn) return;
  addEventListener("beforeunload", (event) => {
    if (all().some((card) => "sent" in card.dataset && !isSettled(card))) event.preventDefault();
  });
  for (const failed of ["htmx:error", "htmx:response:error"]) {
    document.addEventListener(failed, (event) => {
      const card = event.target.closest?.("[data-card]");
      if (!card) return;
      // Open again, and the toast says why. The focus stays: the next key is meant for another card.
      delete card.dataset.sent;
      card.dataset.failed = "1";
    });
  }
  /* What the server says of a card replaces its verdict. */
  new MutationObserver((changes) => {
    for (const card of all()) {
      if (!("sent" in card.dataset) || changes.every((change) => !card.contains(change.target))) continue;
      if (isSettled(card)) continue;
      delete card.dataset.sent;
      look(card);
    }
    if (all().every(isSettled)) byId("next-page")?.click();
  }).observe(grid, { childList: true, subtree: true });
  if (document.activeElement === document.body) all().find(isOpen)?.focus({ preventScroll: true });
}

if (byId("cards")) walking(byId("cards"));

document.addEventListener("keydown", (event) => {
  const form = byId("undo-last");
  if (!form || event.repeat || typing(event.target) || !takesBack(event)) return;
  event.preventDefault();
  form.requestSubmit();
});
