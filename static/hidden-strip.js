/* Whether the figures below the image are hidden, settled before the page is first painted so that
   nothing jumps. Remembered by this browser; the server is not asked. */
"use strict";
(() => {
  const name = "tastemaker:strip-hidden", root = document.documentElement;
  const hide = (hidden) => { root.dataset.strip = hidden ? "hidden" : "shown"; };
  let kept = null;
  try { kept = localStorage.getItem(name); } catch { /* not remembered, then */ }
  hide(kept === "1");
  document.addEventListener("DOMContentLoaded", () => {
    const toggle = document.getElementById("strip-toggle");
    const reflect = () => toggle.setAttribute("aria-expanded", String(root.dataset.strip === "shown"));
    if (!toggle) return;
    reflect();
    toggle.addEventListener("click", () => {
      hide(root.dataset.strip === "shown");
      reflect();
      try { localStorage.setItem(name, root.dataset.strip === "hidden" ? "1" : "0"); } catch { /* as above */ }
    });
  });
})();
