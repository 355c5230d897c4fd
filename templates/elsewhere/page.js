"use strict";

(() => {
  const PICTURES = /\.(jpe?g|png|webp|gif|avif|bmp|jxl|heic|heif|tiff?)$/i;
  const AT_FIRST = 300; // pictures that are drawn before somebody asks for more
  const MOST_WORKERS = 8;
  const FORMULA = /^[=+\-@\t\r]/;

  const by = (id) => document.getElementById(id);
  const model = JSON.parse(by("model").textContent);
  const rows = []; // {number, path, file, score, thumbnail, error, tile, line}
  let next = 0, done = 0, failed = 0, stopped = false, limit = AT_FIRST;
  let began = 0, before = 0; // when the rate was last counted from, and how many were done then

  by("about").textContent =
    `${model.name} ${model.version} · ${model.encoder} · SHA-256 ${model.sha256} · ${model.program}`;
  by("threshold").value = Math.round(1000 * model.threshold) / 10;

  function fail(message) {
    by("trouble").textContent = message;
    by("trouble").hidden = false;
  }

  // --- the workers ------------------------------------------------------------------------

  const bytes = (id) => {
    const text = atob(by(id).textContent);
    const found = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) found[i] = text.charCodeAt(i);
    return found;
  };

  async function inflated(compressed) {
    const stream = new Blob([compressed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Float32Array(await new Response(stream).arrayBuffer());
  }

  let workers = null;

  async function start() {
    if (typeof DecompressionStream === "undefined" || typeof OffscreenCanvas === "undefined")
      throw new Error("this browser is too old for it; one of 2023 or later is needed");
    const weights = await inflated(bytes("weights")), kernels = bytes("kernels");
    if (weights.length !== model.weights) throw new Error("the file is damaged: save it anew");
    by("weights").remove(); // megabytes that nobody reads again
    const source = URL.createObjectURL(new Blob([by("worker").textContent]));
    const count = Math.max(1, Math.min(MOST_WORKERS, navigator.hardwareConcurrency || 2));
    return Promise.all(Array.from({ length: count }, () => new Promise((resolve, reject) => {
      const worker = new Worker(source);
      worker.onerror = (event) => reject(new Error(event.message || "a worker did not start"));
      worker.onmessage = () => {
        worker.onmessage = ({ data }) => taken(worker, data);
        worker.onerror = (event) => fail(`Scoring stopped: ${event.message}. Open the page anew.`);
        worker.idle = true;
        resolve(worker);
      };
      worker.postMessage({ kernels, model, weights });
    })));
  }

  function feed() {
    if (!Array.isArray(workers)) return; // they are still getting ready
    for (const worker of workers) {
      while (worker.idle && !stopped && next < rows.length) {
        worker.idle = false;
        const row = rows[next++];
        worker.row = row;
        worker.postMessage({ number: row.number, file: row.file });
      }
    }
  }

  function taken(worker, { score, error, thumbnail }) {
    worker.idle = true;
    const row = worker.row;
    if (rows[row.number] === row) { // else it was cleared meanwhile
      done += 1;
      if (error === undefined) {
        row.score = score;
        row.thumbnail = URL.createObjectURL(thumbnail);
      } else {
        row.error = error;
        failed += 1;
      }
    }
    feed();
    soon();
  }

  // --- what is dropped or chosen -------------------------------------------------------------

  async function filesOf(entry) {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      return [{ file, path: entry.fullPath.replace(/^\//, "") }];
    }
    const reader = entry.createReader(), found = [];
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return found;
      for (const inner of some) found.push(...(await filesOf(inner)));
    }
  }

  function add(found) {
    const pictures = found.filter(({ file, path }) => file.type.startsWith("image/") || PICTURES.test(path));
    if (!pictures.length) {
      fail(found.length ? "There is no picture among these files." : "This folder is empty.");
      return;
    }
    by("trouble").hidden = true;
    pictures.sort((a, b) => (a.path < b.path ? -1 : 1));
    if (done === rows.length) {
      began = performance.now();
      before = done;
    }
    for (const one of pictures) rows.push({ ...one, number: rows.length });
    stopped = false;
    by("drop").classList.add("small-now");
    by("work").hidden = false;
    soon();
    workers ??= start().then((started) => { workers = started; feed(); }, (error) => {
      workers = null; // what is dropped next tries once more
      fail(`Nothing could be scored: ${error.message}.`);
    });
    if (Array.isArray(workers)) feed();
  }

  const chosen = (input) => [...input.files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));
  for (const id of ["folder", "files"])
    by(id).addEventListener("change", () => { add(chosen(by(id))); by(id).value = ""; });

  const drop = by("drop");
  document.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    // The entries are gone after the first pause.
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const plain = [...event.dataTransfer.files].map((file) => ({ file, path: file.name }));
    try {
      add(entries.length ? (await Promise.all(entries.map(filesOf))).flat() : plain);
    } catch (error) {
      fail(`The folder cannot be read: ${error.message}. Choose it with the button.`);
    }
  });

  // --- what is shown -------------------------------------------------------------------------

  const threshold = () => Number(by("threshold").value) / 100;
  const passes = (row) => row.score >= threshold();
  const percent = (score) => { // only what is all or none is told as such
    const text = (100 * score).toFixed(1);
    if (score < 1 && text === "100.0") return "> 99.9 %";
    return score > 0 && text === "0.0" ? "< 0.1 %" : `${text} %`;
  };
  const count = (n) => n.toLocaleString("en");
  const counted = (n, what) => `${count(n)} ${what}${n === 1 ? "" : "s"}`;

  const ORDERS = {
    high: (a, b) => b.score - a.score || a.number - b.number,
    low: (a, b) => a.score - b.score || a.number - b.number,
    near: (a, b) => Math.abs(a.score - threshold()) - Math.abs(b.score - threshold()),
    path: (a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0),
  };

  function listed() {
    const show = by("show").value;
    return rows
      .filter((row) => row.score !== undefined && (show === "all" || passes(row) === (show === "pass")))
      .sort(ORDERS[by("order").value]);
  }

  const made = (tag, className = "", text = "") => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    element.textContent = text;
    return element;
  };

  function picture(row) {
    const button = made("button", "picture"), image = new Image();
    image.src = row.thumbnail;
    image.alt = row.path;
    image.loading = "lazy";
    button.append(image);
    button.addEventListener("click", () => enlarge(row));
    return button;
  }

  const ramp = (score) => `chip r${Math.round(10 * score)}`;

  function tile(row) {
    if (!row.tile) {
      row.tile = made("li");
      const facts = made("p"), name = made("span", "", row.path.split("/").pop());
      name.title = row.path;
      facts.append(made("span", ramp(row.score), percent(row.score)), name);
      row.tile.append(picture(row), facts);
    }
    row.tile.className = passes(row) ? "" : "fails";
    return row.tile;
  }

  function line(row) {
    if (!row.line) {
      row.line = made("tr");
      const shown = made("td"), score = made("td", "number");
      shown.append(picture(row));
      score.append(made("span", ramp(row.score), percent(row.score)));
      row.line.append(shown, made("td", "", row.path), score, made("td"));
    }
    row.line.className = passes(row) ? "" : "fails";
    row.line.lastChild.textContent = passes(row) ? "yes" : "no";
    return row.line;
  }

  function enlarge(row) {
    const large = by("large"), image = large.querySelector("img"), url = URL.createObjectURL(row.file);
    image.src = url;
    image.alt = row.path;
    large.querySelector("span").textContent = `${percent(row.score)} · ${row.path}`;
    large.addEventListener("close", () => { URL.revokeObjectURL(url); image.removeAttribute("src"); }, { once: true });
    large.showModal();
  }
  by("large").querySelector("button").addEventListener("click", () => by("large").close());

  function histogram(scored) {
    const bins = new Array(20).fill(0);
    for (const { score } of scored) bins[Math.min(19, Math.floor(20 * score))] += 1;
    const most = Math.max(1, ...bins), drawing = by("histogram");
    drawing.replaceChildren(...bins.map((n, i) => {
      const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      const high = n ? Math.max(1, (24 * n) / most) : 0.4;
      for (const [name, value] of Object.entries({ x: 5 * i + 0.25, y: 24 - high, width: 4.5, height: high }))
        bar.setAttribute(name, value);
      bar.setAttribute("fill", n ? `var(--r${Math.round((10 * (i + 0.5)) / 20)})` : "var(--hairline)");
      return bar;
    }));
  }

  function status() {
    const left = rows.length - done, running = left > 0 && !stopped;
    by("bar").max = Math.max(1, rows.length);
    by("bar").value = done;
    by("bar").hidden = !left;
    const rate = (done - before) / ((performance.now() - began) / 1000);
    const words = [`${count(done)} of ${counted(rows.length, "picture")} scored`];
    if (running && !Array.isArray(workers)) words.push("getting ready");
    else if (running && done - before > 3) {
      const seconds = Math.ceil(left / rate);
      const time = seconds < 90 ? `${seconds} s` : `${Math.ceil(seconds / 60)} min`;
      words.push(`${rate.toFixed(rate < 10 ? 1 : 0)} a second`, `${time} left`);
    } else if (stopped && left) words.push("stopped");
    by("status").textContent = words.join(" · ");
    by("status").dataset.done = String(!running);
    by("stop").hidden = !left;
    by("stop").textContent = stopped ? "Go on" : "Stop";
  }

  function draw() {
    status();
    const scored = rows.filter((row) => row.score !== undefined), passing = scored.filter(passes).length;
    by("results").hidden = !scored.length;
    by("threshold-said").textContent = `${by("threshold").value} %`;
    const share = scored.length ? Math.round((100 * passing) / scored.length) : 0;
    by("passing").textContent = `${count(passing)} of ${count(scored.length)} pass (${share} %)`;
    histogram(scored);
    const shown = listed(), table = by("as-table").getAttribute("aria-pressed") === "true";
    by("grid").hidden = table;
    by("table").hidden = !table;
    const some = shown.slice(0, limit);
    if (table) by("table").tBodies[0].replaceChildren(...some.map(line));
    else by("grid").replaceChildren(...some.map(tile));
    by("more").hidden = shown.length <= limit;
    by("more").textContent = `Show ${count(Math.min(AT_FIRST, shown.length - limit))} more of ${count(shown.length - limit)}`;
    by("csv").textContent = shown.length < scored.length ? `Download CSV (${count(shown.length)})` : "Download CSV";
    by("csv").disabled = !shown.length;
    by("failed").hidden = !failed;
    if (failed) {
      by("failed").querySelector("summary").textContent = `${counted(failed, "file")} could not be opened as a picture`;
      const wrong = rows.filter((row) => row.error !== undefined).slice(0, 500);
      by("failed").querySelector("ul").replaceChildren(...wrong.map((row) => made("li", "", row.path)));
    }
  }

  let due = 0;
  function soon() { // at most some times a second while scores come in
    due ||= setTimeout(() => { due = 0; draw(); }, rows.length > 500 && done < rows.length ? 500 : 100);
  }

  for (const id of ["threshold", "show", "order"])
    by(id).addEventListener("input", () => { limit = AT_FIRST; draw(); });
  for (const [id, other] of [["as-grid", "as-table"], ["as-table", "as-grid"]])
    by(id).addEventListener("click", () => {
      by(id).setAttribute("aria-pressed", "true");
      by(other).setAttribute("aria-pressed", "false");
      draw();
    });
  by("more").addEventListener("click", () => { limit += AT_FIRST; draw(); });
  by("stop").addEventListener("click", () => {
    stopped = !stopped;
    began = performance.now();
    before = done;
    feed();
    draw();
  });
  by("clear").addEventListener("click", () => {
    for (const row of rows) if (row.thumbnail) URL.revokeObjectURL(row.thumbnail);
    rows.length = 0;
    next = done = failed = before = 0;
    by("work").hidden = true;
    by("drop").classList.remove("small-now");
    draw();
  });

  // --- what is taken away ----------------------------------------------------------------------

  const cell = (text) => {
    const inert = FORMULA.test(text) ? `'${text}` : text;
    return /[",\r\n]/.test(inert) ? `"${inert.replaceAll('"', '""')}"` : inert;
  };

  by("csv").addEventListener("click", () => {
    const name = cell(`${model.name}@${model.version}`);
    const lines = listed().map((row) =>
      [cell(row.path), row.score.toFixed(6), (100 * row.score).toFixed(2), name].join(","));
    const text = ["path,aesthetic_score,percent,model", ...lines, ""].join("\r\n");
    const link = made("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = `${model.name}-${model.version}.scores.csv`.replace(/[^\w.-]+/g, "-");
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
})();
