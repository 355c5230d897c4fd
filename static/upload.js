/* The upload form of the Add page: the same form, sent with a bar, a rate and an ETA.
   `byId` and `warn` are those of page.js. */
"use strict";

function uploading(form) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const bar = byId("upload-progress"), begun = Date.now(), request = new XMLHttpRequest();
    const [meter, text] = [bar.querySelector("progress"), bar.querySelector("p")];
    bar.hidden = false;
    request.upload.onprogress = ({ loaded, total }) => {
      const rate = loaded / Math.max(1, Date.now() - begun); // bytes a millisecond: kB a second
      meter.value = loaded / total;
      text.textContent = `${(loaded / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB · ` +
        `${(rate / 1e3).toFixed(1)} MB a second · ${Math.ceil((total - loaded) / rate / 1e3)} s left`;
    };
    request.onload = () => {
      const there = request.getResponseHeader("HX-Redirect");
      if (there) return location.assign(there);
      bar.hidden = true;
      const page = new DOMParser().parseFromString(request.responseText, "text/html");
      warn(page.querySelector("p")?.textContent.trim() || "The upload failed.");
    };
    request.onerror = () => {
      bar.hidden = true;
      warn("The upload was interrupted; nothing of it was kept.", "Send it again.");
    };
    request.open("POST", form.action);
    request.setRequestHeader("HX-Request", "true");
    request.send(new FormData(form));
  });
}

if (byId("upload")) uploading(byId("upload")); // a page may hold no form yet
