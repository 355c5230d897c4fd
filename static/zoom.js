/* Looking closer: 100 % (one pixel of the picture on one of the screen) and moving about in it. The
   sharp picture is asked for only then. And swiping, for a thumb. */
"use strict";

function makeZoom(stage, { sharp, changed }) {
  let view = null; // { fit, image, scale, x, y }: the picture's corner, in pixels of the stage

  function size() { return [view.image.naturalWidth * view.ratio, view.image.naturalHeight * view.ratio]; }

  function place() {
    const [width, height] = size(), box = stage.getBoundingClientRect();
    const within = (at, inner, outer) =>
      inner <= outer ? (outer - inner) / 2 : Math.min(0, Math.max(outer - inner, at));
    view.x = within(view.x, width, box.width);
    view.y = within(view.y, height, box.height);
    Object.assign(view.image.style, {
      width: `${width}px`, height: `${height}px`, transform: `translate(${view.x}px, ${view.y}px)`,
    });
  }

  /* Zoom in around a point of the stage (its middle without one). */
  function into(at) {
    const fitted = stage.querySelector("img");
    if (view || !fitted || !fitted.naturalWidth) return;
    const box = stage.getBoundingClientRect();
    const full = sharp();
    const [across, down] = [full?.width || fitted.naturalWidth, full?.height || fitted.naturalHeight];
    const fit = Math.min(box.width / across, box.height / down);
    const one = 1 / devicePixelRatio;
    const scale = fit < 0.95 * one ? one : 2 * fit; // a small picture fills the stage already
    const point = at ?? { x: box.width / 2, y: box.height / 2 };
    const left = (box.width - across * fit) / 2, top = (box.height - down * fit) / 2;
    view = {
      fitted, image: fitted, ratio: scale * (across / fitted.naturalWidth),
      x: point.x - ((point.x - left) / fit) * scale, y: point.y - ((point.y - top) / fit) * scale,
    };
    stage.classList.add("zoomed");
    place();
    changed(Math.round((100 * scale) / one));
    if (full?.src) sharpen(full, scale);
  }

  function sharpen(full, scale) {
    const image = new Image(), mine = view;
    Object.assign(image, { src: full.src, alt: mine.fitted.alt, draggable: false });
    image.dataset.image = mine.fitted.dataset.image;
    image.decode().then(() => {
      if (view !== mine) return;
      mine.fitted.removeAttribute("style");
      Object.assign(mine, { image, ratio: (full.width * scale) / image.naturalWidth });
      stage.replaceChildren(image);
      place();
    }).catch(() => { /* the file is gone: the smaller picture stays */ });
  }

  function out() {
    if (!view) return;
    const { fitted, image } = view;
    view = null;
    stage.classList.remove("zoomed");
    fitted.removeAttribute("style");
    if (image !== fitted && image.isConnected) stage.replaceChildren(fitted);
    changed(null);
  }

  function pan(dx, dy) {
    view.x += dx;
    view.y += dy;
    place();
  }

  const local = (event) => {
    const box = stage.getBoundingClientRect();
    return { x: event.clientX - box.x, y: event.clientY - box.y };
  };
  stage.addEventListener("wheel", (event) => {
    if (event.ctrlKey || event.metaKey) return; // that is the browser's own zoom
    event.preventDefault();
    if (event.deltaY < 0) into(local(event));
    else out();
  }, { passive: false });
  stage.addEventListener("pointerdown", (event) => {
    if (!view || event.button !== 0) return;
    stage.setPointerCapture(event.pointerId);
    const drag = (move) => pan(move.movementX, move.movementY);
    const end = () => {
      stage.removeEventListener("pointermove", drag);
      ["pointerup", "pointercancel"].forEach((name) => stage.removeEventListener(name, end));
    };
    stage.addEventListener("pointermove", drag);
    ["pointerup", "pointercancel"].forEach((name) => stage.addEventListener(name, end));
  });
  addEventListener("resize", () => { if (view) place(); });

  return {
    isIn: () => view !== null,
    toggle: () => (view ? out() : into()),
    out,
    /* An arrow key moves a quarter of the stage. */
    arrow(key) {
      const step = stage.getBoundingClientRect().width / 4;
      const by = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] }[key];
      if (!view || !by) return false;
      pan(...by);
      return true;
    },
  };
}

/* A finger that goes far enough sideways: `left` or `right`. The picture follows it. */
function swiping(stage, zoom, act) {
  const FAR = 72;
  let from = null;
  const follow = (dx) => {
    const image = stage.firstElementChild;
    if (image) image.style.transform = dx ? `translateX(${dx}px)` : "";
  };
  stage.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" || zoom.isIn() || !event.isPrimary) return;
    from = { x: event.clientX, y: event.clientY };
  });
  stage.addEventListener("pointermove", (event) => {
    if (from && event.isPrimary) follow(event.clientX - from.x);
  });
  const end = (event) => {
    if (!from || !event.isPrimary) return;
    const dx = event.clientX - from.x, dy = event.clientY - from.y;
    from = null;
    follow(0);
    if (event.type === "pointerup" && Math.abs(dx) >= FAR && Math.abs(dx) > 2 * Math.abs(dy)) {
      act(dx < 0 ? "left" : "right");
    }
  };
  stage.addEventListener("pointerup", end);
  stage.addEventListener("pointercancel", end);
}
