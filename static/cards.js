/* A page of cards: the arrows walk over them, a score key corrects the one in focus. And the undo
   key of a page that has run out of them. */
"use strict";

function walking(grid) {
  document.addEventListener("keydown", (event) => {
    if (typing(event.target) || (event.repeat && !event.key.startsWith("Arrow"))) return;
    const cards = [...grid.querySelectorAll("[data-card]")];
    const card = event.target.closest("[data-card]");
    const value = scoreOf(event);
    if (card && value !== null) card.querySelector(`button[value="${value}"]`).click();
    else if (takesBack(event)) byId("toast").querySelector("[data-undo] button")?.click();
    else {
      const step = arrowStep(event, cards);
      if (step === null) return;
      (cards[card ? cards.indexOf(card) + step : 0] ?? card)?.focus();
    }
    event.preventDefault();
  });
}

if (byId("cards")) walking(byId("cards"));

document.addEventListener("keydown", (event) => {
  const form = byId("undo-last");
  if (!form || event.repeat || typing(event.target) || !takesBack(event)) return;
  event.preventDefault();
  form.requestSubmit();
});
