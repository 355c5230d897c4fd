/* The Try it page: pictures may be dropped anywhere or pasted; they are asked about at once.
   `byId` and `warn` are those of page.js. */
"use strict";

function trying(form) {
  const input = form.querySelector("input[type=file]"), state = byId("try-state");
  const button = form.querySelector("button.primary"), advice = state.textContent;

  async function ask() {
    const body = new FormData(form);
    state.textContent = "Asking the model …";
    button.disabled = true;
    try {
      const answer = await fetch(form.action, {
        method: "POST", headers: { "HX-Request": "true" }, body,
      });
      const there = answer.headers.get("HX-Redirect");
      if (there) return location.assign(there);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const [text, hint] = ["strong", "span"].map((part) => page.querySelector(`.toast ${part}`));
      warn(text?.textContent.trim() || "The picture could not be tried.", hint?.textContent.trim());
    } catch {
      warn("The picture did not get through.", "Is the server still running? Try again.");
    }
    state.textContent = advice;
    button.disabled = false;
  }

  function take(files) {
    const pictures = [...(files ?? [])].filter((file) => file.type.startsWith("image/") || /\.(heic|heif|hif|jxl)$/i.test(file.name));
    if (pictures.length === 0) return warn("That is not a picture.", "Choose a JPEG, PNG, WebP, HEIC or another one.");
    const kept = new DataTransfer();
    for (const picture of pictures) kept.items.add(picture);
    input.files = kept.files;
    ask();
  }

  form.addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  input.addEventListener("change", () => { if (input.files.length) ask(); });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length === 0) return;
    event.preventDefault();
    take(event.clipboardData.files);
  });
  for (const moment of ["dragover", "drop"]) {
    document.addEventListener(moment, (event) => {
      event.preventDefault();
      form.classList.toggle("over", moment === "dragover");
      if (moment === "drop") take(event.dataTransfer.files);
    });
  }
  document.addEventListener("dragleave", () => form.classList.remove("over"));
  fetch(form.dataset.warm, { method: "POST" }).catch(() => {}); // the encoder may be loading already
}

if (byId("try")) trying(byId("try"));
