// What a page that scores pictures by itself does with them, in a worker: pixels of a browser in, a
// score out. `model` says what the numbers in `weights` are (html_page.py writes both).
//
// A browser makes pictures smaller in its own way, and the network would see other pixels. So they
// are made smaller here, to the bit as Pillow does it.
"use strict";

// --- the picture as the network sees it -------------------------------------------------------

const BITS = 22; // of a weight behind the point, in Pillow's whole numbers
const REACH = 2; // pixels that the bicubic filter looks to each side

function bicubic(x) {
  x = Math.abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * -0.5;
  return 0;
}

// What each pixel from `begin` to `end` of a side that becomes `after` long is made of: the first
// pixel, how many, and their weights.
function taps(side, after, begin, end) {
  const scale = side / after, wide = Math.max(scale, 1), support = REACH * wide;
  const most = Math.ceil(support) * 2 + 1, count = end - begin;
  const first = new Int32Array(count), many = new Int32Array(count);
  const weights = new Int32Array(count * most);
  for (let i = 0; i < count; i++) {
    const centre = (begin + i + 0.5) * scale;
    const low = Math.max(0, Math.trunc(centre - support + 0.5));
    const high = Math.min(side, Math.trunc(centre + support + 0.5));
    const found = [];
    let sum = 0;
    for (let x = low; x < high; x++) {
      found.push(bicubic((x - centre + 0.5) / wide));
      sum += found[x - low];
    }
    first[i] = low;
    many[i] = high - low;
    found.forEach((weight, k) => {
      const whole = (weight / sum) * 2 ** BITS;
      weights[i * most + k] = Math.trunc(whole < 0 ? whole - 0.5 : whole + 0.5);
    });
  }
  return { first, many, weights, most };
}

const HALF = 2 ** (BITS - 1);

function clipped(sum) {
  const value = sum >> BITS;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

// Both passes take a part of a map {data, width, left, top}: rows of `width` positions, the first
// of which is the picture's (left, top), three colours or a browser's four. They give three.

// The positions of `taps` in each row from `top` to `bottom`.
function across({ data, width, left, top: from, colours }, taps, top, bottom) {
  const size = taps.first.length, made = new Uint8Array((bottom - top) * size * 3);
  for (let y = top, to = 0; y < bottom; y++)
    for (let x = 0; x < size; x++) {
      let red = HALF, green = HALF, blue = HALF, tap = x * taps.most;
      let at = ((y - from) * width + taps.first[x] - left) * colours;
      for (const end = tap + taps.many[x]; tap < end; tap++, at += colours) {
        const weight = taps.weights[tap];
        red += data[at] * weight;
        green += data[at + 1] * weight;
        blue += data[at + 2] * weight;
      }
      made[to++] = clipped(red);
      made[to++] = clipped(green);
      made[to++] = clipped(blue);
    }
  return { data: made, width: size, left: 0, top, colours: 3 };
}

// The rows of `taps`, of the columns from `begin` to `end`.
function down({ data, width, left: from, top, colours }, taps, begin, end) {
  const size = taps.first.length, row = (end - begin) * 3;
  const made = new Uint8Array(size * row), sums = new Int32Array(row);
  for (let y = 0; y < size; y++) {
    sums.fill(HALF);
    for (let k = 0; k < taps.many[y]; k++) {
      const weight = taps.weights[y * taps.most + k];
      let at = ((taps.first[y] + k - top) * width + begin - from) * colours;
      for (let x = 0; x < row; x += 3, at += colours) {
        sums[x] += data[at] * weight;
        sums[x + 1] += data[at + 1] * weight;
        sums[x + 2] += data[at + 2] * weight;
      }
    }
    for (let x = 0; x < row; x++) made[y * row + x] = clipped(sums[x]);
  }
  return { data: made, width: end - begin, left: begin, top: 0, colours: 3 };
}

// Half of a whole number goes to the even one, as in Python.
function rounded(x) {
  const low = Math.floor(x);
  return x - low === 0.5 ? low + (low % 2) : Math.round(x);
}

// RGBA of a browser, (height, width, 4) → (size, size, 3), for one of the model's views. Which
// pass comes first, with its rounding to bytes, is Pillow's choice: of newer ones, for pictures
// that lose much more of their height, the one down.
function fitted(pixels, width, height, view, downFirst = true) {
  const size = view.size;
  let wide = size, high = size, left = 0, top = 0;
  if (view.resize_mode !== "squash") {
    const short = Math.min(width, height);
    wide = Math.trunc((view.resize_to * width) / short);
    high = Math.trunc((view.resize_to * height) / short);
    left = rounded((wide - size) / 2);
    top = rounded((high - size) / 2);
  }
  const columns = taps(width, wide, left, left + size);
  const rows = taps(height, high, top, top + size);
  const last = ({ first, many }) => first[size - 1] + many[size - 1];
  const picture = { data: pixels, width, left: 0, top: 0, colours: 4 };
  if (downFirst && height > high && height - high > 2 * (width - wide)) {
    const between = down(picture, rows, columns.first[0], last(columns));
    return across(between, columns, 0, size).data;
  }
  const between = across(picture, columns, rows.first[0], last(rows));
  return down(between, rows, 0, size).data;
}

// --- the network and the head -----------------------------------------------------------------

class Scorer {
  // `kernels` are the exports of kernels.wasm, `weights` one Float32Array of all numbers.
  constructor(kernels, model, weights) {
    this.kernels = kernels;
    this.model = model;
    this.end = Math.ceil(kernels.__heap_base.value / 16) * 16;
    this.weights = this.room(weights.length);
    const widest = Math.max(...model.network.map((layer) => layer.after ** 2 * layer.out));
    this.rooms = [0, 1, 2].map(() => this.room(widest));
    const size = model.views[0].size;
    this.pixels = this.room(size * size * 3);
    this.patches = this.room(model.network[0].after ** 2 * model.network[0].in * 9);
    const broad = Math.max(model.features, ...model.head.layers.map((layer) => layer.out));
    this.rows = [0, 1, 2].map(() => this.room(broad));
    const missing = this.end - kernels.memory.buffer.byteLength;
    if (missing > 0) kernels.memory.grow(Math.ceil(missing / 65536));
    this.memory = new Float32Array(kernels.memory.buffer);
    this.memory.set(weights, this.weights / 4);
  }

  // The place of so many numbers in the memory.
  room(count) {
    const at = this.end;
    this.end += Math.ceil(count / 4) * 16;
    return at;
  }

  view(at, count) {
    return this.memory.subarray(at / 4, at / 4 + count);
  }

  at(offset) {
    return this.weights + 4 * offset;
  }

  // A score in 0-1 of the RGBA pixels of a picture.
  score(pixels, width, height) {
    const { views: wanted, down_first: first } = this.model;
    const views = wanted.map((view) => fitted(pixels, width, height, view, first));
    return this.scoreFitted(views);
  }

  // The same of its views, each (size, size, 3) bytes.
  scoreFitted(views) {
    const blocks = this.model.blocks;
    const stages = blocks.includes("stages") ? [] : null;
    const parts = [this.look(views[0], stages)];
    if (stages) parts.push(stages);
    if (blocks.includes("whole")) parts.push(this.look(views[1], null));
    const long = this.model.block_length;
    return this.judge(parts.flatMap((part) => (blocks.length ? scaled(part, long) : part)));
  }

  // One view → the features that the network ends at; what its stages answered goes to `stages`.
  look(bytes, stages) {
    const { mean, std } = this.model, k = this.kernels;
    const input = this.view(this.pixels, bytes.length);
    for (let i = 0; i < bytes.length; i++) input[i] = (bytes[i] - mean[i % 3]) / std[i % 3];
    let now = this.pixels, block = 0;
    for (const layer of this.model.network) {
      if (layer.opens) block = now;
      const then = this.rooms.find((room) => room !== now && room !== block);
      const { side, after, before, stride, kernel } = layer, six = layer.relu6 ? 1 : 0;
      const weight = this.at(layer.weight), bias = this.at(layer.bias), plus = layer.adds ? block : 0;
      if (layer.depthwise) {
        k.depthwise(now, weight, bias, then, side, layer.in, kernel, stride, before, after);
      } else if (kernel === 1) {
        k.pointwise(now, weight, bias, then, side * side, layer.in, layer.out, six, plus);
      } else {
        k.unfold(now, this.patches, side, layer.in, kernel, stride, before, after);
        const many = layer.in * kernel * kernel;
        k.pointwise(this.patches, weight, bias, then, after * after, many, layer.out, six, plus);
      }
      now = then;
      if (stages && layer.ends) stages.push(...moments(this.view(now, after * after * layer.out), layer.out));
    }
    const last = this.model.network[this.model.network.length - 1];
    return moments(this.view(now, last.after ** 2 * last.out), last.out).slice(0, last.out);
  }

  // An embedding → a score in 0-1.
  judge(vector) {
    const { head } = this.model;
    if (head.normalised) vector = scaled(vector, 1);
    const [x, other, third] = this.rows;
    this.view(x, vector.length).set(vector);
    const [up, ...rest] = head.layers;
    this.dense(up, x, other);
    let now = other;
    if (head.trunk) {
      // ReLU(long(u) + u), with a leaky ReLU behind each of the first two layers of `long`
      const [one, two, three] = rest.splice(0, 3);
      leak(this.dense(one, other, third), head.trunk_slope);
      leak(this.dense(two, third, x), head.trunk_slope);
      const sum = this.dense(three, x, third), u = this.view(other, three.out);
      for (let i = 0; i < sum.length; i++) sum[i] += u[i];
      now = third;
    }
    const [narrow, last] = rest;
    leak(this.view(now, narrow.in), 0);
    leak(this.dense(narrow, now, x), head.neck_slope);
    const z = this.dense(last, x, other)[0];
    return 1 / (1 + Math.exp(-2 * z));
  }

  dense(layer, from, to) {
    const { weight, bias } = layer;
    this.kernels.pointwise(from, this.at(weight), this.at(bias), to, 1, layer.in, layer.out, 0, 0);
    return this.view(to, layer.out);
  }
}

function leak(row, slope) {
  for (let i = 0; i < row.length; i++) if (row[i] < 0) row[i] *= slope;
}

// (positions, channels) → the means of the channels, then their standard deviations.
function moments(map, channels) {
  const positions = map.length / channels;
  const mean = new Array(channels).fill(0), spread = new Array(channels).fill(0);
  for (let i = 0; i < map.length; i += channels)
    for (let c = 0; c < channels; c++) mean[c] += map[i + c];
  for (let c = 0; c < channels; c++) mean[c] /= positions;
  for (let i = 0; i < map.length; i += channels)
    for (let c = 0; c < channels; c++) spread[c] += (map[i + c] - mean[c]) ** 2;
  return mean.concat(spread.map((sum) => Math.sqrt(sum / positions)));
}

function scaled(part, long) {
  const length = Math.sqrt(part.reduce((sum, x) => sum + x * x, 0));
  return part.map((x) => x * (long / Math.max(length, 1e-6)));
}

// --- the worker -------------------------------------------------------------------------------

const THUMBNAIL = 192;

// On white, as the program lays what is transparent; turned upright, in sRGB.
async function opened(file) {
  const picture = await createImageBitmap(file);
  const { width, height } = picture;
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext("2d", { willReadFrequently: true, alpha: false });
  pen.fillStyle = "white";
  pen.fillRect(0, 0, width, height);
  pen.drawImage(picture, 0, 0);
  return { picture, width, height, pixels: pen.getImageData(0, 0, width, height).data };
}

async function thumbnail({ picture, width, height }) {
  const scale = Math.min(1, THUMBNAIL / Math.max(width, height));
  const size = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = new OffscreenCanvas(...size);
  const pen = canvas.getContext("2d", { alpha: false });
  pen.fillStyle = "white";
  pen.fillRect(0, 0, ...size);
  pen.imageSmoothingQuality = "medium";
  pen.drawImage(picture, 0, 0, ...size);
  picture.close();
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.82 });
}

async function answer(scorer, { number, file }) {
  try {
    const found = await opened(file);
    const score = scorer.score(found.pixels, found.width, found.height);
    if (!Number.isFinite(score)) throw new Error("no number came out");
    const { width, height } = found;
    postMessage({ number, score, width, height, thumbnail: await thumbnail(found) });
  } catch (error) {
    postMessage({ number, error: String(error.message || error) });
  }
}

if (typeof WorkerGlobalScope !== "undefined") {
  let scorer;
  onmessage = async ({ data }) => {
    if (data.file) return answer(await scorer, data);
    scorer = WebAssembly.instantiate(data.kernels).then(
      ({ instance }) => new Scorer(instance.exports, data.model, data.weights),
    );
    await scorer;
    postMessage({ ready: true });
  };
}

if (typeof module !== "undefined") module.exports = { Scorer, fitted };
