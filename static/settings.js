/* A key field takes the key that is pressed in it; the chip beside a bracket follows its start. */
"use strict";

document.addEventListener("keydown", (event) => {
  const field = event.target.closest("[data-key]");
  const leaves = ["Tab", "Enter", "Escape", "Shift", "Control", "Alt", "Meta", ...TYPES_NOTHING].includes(event.key);
  if (!field || leaves || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Backspace" && field.value) return; // empties the field first
  event.preventDefault();
  field.value = typedDigit(event.key) ?? keyName(event);
});

document.addEventListener("input", (event) => {
  if (event.target.name !== "bracket_from") return;
  const chip = event.target.closest(".bracket").querySelector(".chip");
  const start = Number.parseFloat(event.target.value.replace(",", "."));
  const step = start >= 0 && start <= 100 ? Math.floor(start / 10) : null;
  chip.className = step === null ? "chip none" : `chip r${step}`;
  chip.textContent = step ?? "+";
});
