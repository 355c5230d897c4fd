/* A page of cards: the arrows walk over them, a score key corrects the one in focus. And the undo
   key of a page that has run out of them. */
"use strict";

function walking(grid) {
  const step = (cards, at, key) => {
    if (key === "ArrowRight") return at + 1;
    if (key === "ArrowLeft") return at - 1;
    const columns = cards.filter((card) => card.offsetTop === cards[0].offsetTop).length;
    return key === "ArrowDown" ? at + columns : key === "ArrowUp" ? at - columns : null;
  };
  document.addEventListener("keydown", (event) => {
    if (typing(event.target) || (event.repeat && !event.key.startsWith("Arrow"))) return;
    const cards = [...grid.querySelectorAll("[data-card]")];
    const card = event.target.closest("[data-card]");
    const value = scoreOf(event);
    if (card && value !== null) card.querySelector(`button[value="${value}"]`).click();
    else if (takesBack(event)) byId("toast").querySelector("[data-undo] button")?.click();
    else {
      const next = step(cards, card ? cards.indexOf(card) : -1, event.key);
      if (next === null || event.ctrlKey || event.metaKey || event.altKey) return;
      (cards[card ? next : 0] ?? card)?.focus();
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
