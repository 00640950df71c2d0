// A painter of label maps; runs as js_on_load of gr.HTML, which gives element, trigger, props and watch.
//
// A layer is an array of one class id (or one bit of the region) a pixel, so no colour between two
// classes can arise. props.value holds both layers as text, "id length id length ...", row by row;
// ecgan/demo/painting.py reads and writes the same.

const { height, width, classes, background, regions } = props;
const root = element.querySelector(".painter");
const find = (selector) => root.querySelector(selector);
const HISTORY_BYTES = 32e6;

const canvas = find("canvas.labels");
const overlay = find("canvas.region");
const ring = find(".ring");
const sizeInput = find(".size input");
const eraseTo = find(".background select");
const buttons = [...root.querySelectorAll("[data-tool]")];
const act = (name) => find(`[data-act="${name}"]`);

const colours = new Uint32Array(classes.length);
classes.forEach(({ colour: [r, g, b] }, id) => (colours[id] = (255 << 24) | (b << 16) | (g << 8) | r));

let labels = new Uint16Array(height * width);
let region = new Uint8Array(height * width);
let tool = "brush";
let layer = "labels";
let current = 0;
let published = "";
let stroke = null; // { pointer, last: [x, y], before: snapshot } between pointerdown and pointerup
let hover = null; // [x, y] in pixels of the map
let past = [];
let future = [];

// ---- layers as text ----

function encode(pixels) {
  const runs = [];
  for (let start = 0, end = 0; start < pixels.length; start = end) {
    while (end < pixels.length && pixels[end] === pixels[start]) end++;
    runs.push(pixels[start], end - start);
  }
  return runs.join(" ");
}

function decode(text, pixels) {
  const runs = text.split(" ");
  for (let i = 0, at = 0; i + 1 < runs.length; i += 2) {
    const end = at + Number(runs[i + 1]);
    pixels.fill(Number(runs[i]), at, end);
    at = end;
  }
}

// ---- drawing ----

const context = canvas.getContext("2d");
const overlayContext = overlay.getContext("2d");
for (const one of [canvas, overlay]) [one.width, one.height] = [width, height];
const image = context.createImageData(width, height);
const hatch = overlayContext.createImageData(width, height);
let drawing = false;

function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    const pixels = new Uint32Array(image.data.buffer);
    for (let i = 0; i < labels.length; i++) pixels[i] = colours[labels[i]];
    context.putImageData(image, 0, 0);
    if (!regions) return;
    const stripes = new Uint32Array(hatch.data.buffer);
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        stripes[i] = !region[i] ? 0 : (x + y) & 2 ? 0xc8ffffff : 0x78000000;
      }
    }
    overlayContext.putImageData(hatch, 0, 0);
  });
}

function drawRing() {
  const sized = tool === "brush" || tool === "eraser";
  ring.hidden = !hover || !sized;
  if (ring.hidden) return;
  const scale = canvas.clientWidth / width;
  const across = Math.max(Number(sizeInput.value) * scale, 4);
  ring.style.width = ring.style.height = `${across}px`;
  ring.style.transform = `translate(${hover[0] * scale - across / 2}px, ${hover[1] * scale - across / 2}px)`;
}

function say() {
  const under = hover && labels[Math.floor(hover[1]) * width + Math.floor(hover[0])];
  const empty = regions && layer === "region" && !region.includes(1);
  find(".hint").textContent = empty
    ? "Paint where the second seed applies"
    : hover
      ? `${classes[under].name} at ${Math.floor(hover[0])}, ${Math.floor(hover[1])}`
      : `${width} × ${height} pixels`;
}

// ---- painting ----

// All pixels whose centre is within half the brush of the segment, and the pixel under the pointer.
function paintSegment([x0, y0], [x1, y1], pixels, value) {
  const radius = Number(sizeInput.value) / 2;
  const [dx, dy] = [x1 - x0, y1 - y0];
  const length = dx * dx + dy * dy;
  const left = Math.max(0, Math.floor(Math.min(x0, x1) - radius));
  const right = Math.min(width - 1, Math.ceil(Math.max(x0, x1) + radius));
  const top = Math.max(0, Math.floor(Math.min(y0, y1) - radius));
  const bottom = Math.min(height - 1, Math.ceil(Math.max(y0, y1) + radius));
  for (let y = top; y <= bottom; y++) {
    for (let x = left; x <= right; x++) {
      const [px, py] = [x + 0.5 - x0, y + 0.5 - y0];
      const along = length ? Math.min(1, Math.max(0, (px * dx + py * dy) / length)) : 0;
      const [ex, ey] = [px - along * dx, py - along * dy];
      if (ex * ex + ey * ey <= radius * radius) pixels[y * width + x] = value;
    }
  }
  const [x, y] = [Math.floor(x1), Math.floor(y1)];
  if (x >= 0 && x < width && y >= 0 && y < height) pixels[y * width + x] = value;
}

// Indices of the pixels of one class that hang together with the start by their sides.
function component(start) {
  const seen = new Uint8Array(labels.length);
  const found = [start];
  seen[start] = 1;
  for (let next = 0; next < found.length; next++) {
    const at = found[next];
    const x = at % width;
    for (const to of [x > 0 ? at - 1 : -1, x < width - 1 ? at + 1 : -1, at - width, at + width]) {
      if (to >= 0 && to < labels.length && !seen[to] && labels[to] === labels[start]) {
        seen[to] = 1;
        found.push(to);
      }
    }
  }
  return found;
}

function apply(from, to) {
  const erase = tool === "eraser";
  const [pixels, value] =
    layer === "region" ? [region, erase ? 0 : 1] : [labels, erase ? Number(eraseTo.value) : current];
  if (tool !== "fill") return paintSegment(from, to, pixels, value);
  for (const at of component(Math.floor(to[1]) * width + Math.floor(to[0]))) pixels[at] = value;
}

// ---- history ----

const snapshot = () => ({ labels: labels.slice(), region: region.slice() });
const differs = (a, b) => a.labels.some((id, i) => id !== b.labels[i]) || a.region.some((bit, i) => bit !== b.region[i]);

// Makes what was painted a step that can be undone, and hands it to Python.
function commit(before) {
  if (!differs(before, { labels, region })) return;
  past.push(before);
  const steps = Math.max(8, Math.floor(HISTORY_BYTES / (before.labels.byteLength + before.region.byteLength)));
  past = past.slice(-Math.min(steps, 200));
  future = [];
  publish();
}

function publish() {
  const value = { labels: encode(labels), region: encode(region) };
  published = JSON.stringify(value);
  props.value = value;
  refresh();
  if (document.querySelector(`${props.live} input`)?.checked) trigger("stroke");
}

function step(from, to) {
  if (!from.length || stroke) return;
  to.push(snapshot());
  ({ labels, region } = from.pop());
  publish();
}

function load() {
  const text = JSON.stringify(props.value);
  if (!props.value || text === published) return;
  const first = !published; // no step to undo; and the page makes the first image by itself
  if (!first) past.push(snapshot());
  decode(props.value.labels, labels);
  decode(props.value.region, region);
  future = [];
  published = text;
  refresh();
  if (!first) trigger("stroke");
}

// ---- pointer ----

const position = (event) => {
  const box = canvas.getBoundingClientRect();
  return [((event.clientX - box.left) * width) / box.width, ((event.clientY - box.top) * height) / box.height];
};
const inside = ([x, y]) => x >= 0 && y >= 0 && x < width && y < height;

canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || stroke) return;
  const at = position(event);
  if (!inside(at)) return;
  event.preventDefault();
  if (tool === "pick" || event.altKey) {
    choose(labels[Math.floor(at[1]) * width + Math.floor(at[0])]);
    if (tool === "pick") setTool("brush");
    return;
  }
  canvas.setPointerCapture(event.pointerId);
  stroke = { pointer: event.pointerId, last: at, before: snapshot() };
  apply(at, at);
  draw();
});
canvas.addEventListener("pointermove", (event) => {
  const at = position(event);
  hover = inside(at) ? at : null;
  if (stroke?.pointer === event.pointerId && tool !== "fill") {
    // Without the points between two frames a fast stroke would have corners.
    const points = event.getCoalescedEvents?.() ?? [];
    for (const point of points.length ? points : [event]) {
      const to = position(point);
      apply(stroke.last, to);
      stroke.last = to;
    }
    draw();
  }
  drawRing();
  say();
});
canvas.addEventListener("pointerup", (event) => {
  if (stroke?.pointer !== event.pointerId) return;
  const { before } = stroke;
  stroke = null;
  commit(before);
});
// The browser took the pointer over, to zoom with two fingers: the stroke was none.
canvas.addEventListener("pointercancel", (event) => {
  if (stroke?.pointer !== event.pointerId) return;
  ({ labels, region } = stroke.before);
  stroke = null;
  refresh();
});
canvas.addEventListener("pointerleave", () => {
  hover = null;
  drawRing();
  say();
});

// ---- tools and classes ----

function setTool(name) {
  tool = name;
  refresh();
}

function setLayer(name) {
  layer = name;
  find(`.layers input[value="${name}"]`).checked = true;
  refresh();
}

function choose(id) {
  current = id;
  find(`.classes input[value="${id}"]`).checked = true;
  find(`.classes input[value="${id}"]`).closest("label").scrollIntoView({ block: "nearest" });
  if (layer === "region") setLayer("labels");
  if (tool === "eraser") setTool("brush");
}

function setSize(size) {
  sizeInput.value = Math.min(Number(sizeInput.max), Math.max(1, size));
  refresh();
}

function refresh() {
  root.dataset.layer = layer;
  for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
  act("undo").disabled = !past.length;
  act("redo").disabled = !future.length;
  act("clear").hidden = layer !== "region";
  find(".background").hidden = tool !== "eraser" || layer === "region";
  find(".size output").textContent = sizeInput.value;
  draw();
  drawRing();
  say();
}

function clearRegion() {
  const before = snapshot();
  region.fill(0);
  commit(before);
}

const acts = { undo: () => step(past, future), redo: () => step(future, past), clear: clearRegion };
for (const [name, run] of Object.entries(acts)) act(name).addEventListener("click", run);
for (const button of buttons) button.addEventListener("click", () => setTool(button.dataset.tool));
sizeInput.addEventListener("input", refresh);

for (const [id, { name, colour }] of classes.entries()) {
  const label = document.createElement("label");
  const [radio, swatch, text] = ["input", "i", "span"].map((tag) => document.createElement(tag));
  Object.assign(radio, { type: "radio", name: "painter-class", value: id });
  radio.addEventListener("change", () => choose(id));
  swatch.style.background = `rgb(${colour.join(" ")})`;
  text.textContent = name;
  label.append(radio, swatch, text);
  find(".classes").append(label);
  eraseTo.append(new Option(name, id));
}
eraseTo.value = background;

const filter = find(".filter");
filter.hidden = classes.length <= 16;
filter.addEventListener("input", () => {
  const wanted = filter.value.trim().toLowerCase();
  for (const label of find(".classes").children) {
    label.hidden = !label.textContent.toLowerCase().includes(wanted);
  }
});

find(".layers").hidden = !regions;
for (const radio of root.querySelectorAll(".layers input")) {
  radio.name = "painter-layer";
  radio.addEventListener("change", () => setLayer(radio.value));
}

document.addEventListener("keydown", (event) => {
  const typing = "input:is([type=text], [type=number], [type=search], :not([type])), textarea, select";
  if (event.target.closest?.(typing) || event.isComposing) return;
  const key = event.key.toLowerCase();
  const tools = { b: "brush", f: "fill", e: "eraser", i: "pick" };
  if (event.ctrlKey || event.metaKey) {
    if (key !== "z" && key !== "y") return;
    acts[key === "y" || event.shiftKey ? "redo" : "undo"]();
  } else if (event.altKey) {
    return;
  } else if (tools[key]) {
    setTool(tools[key]);
  } else if (key === "r" && regions) {
    setLayer(layer === "labels" ? "region" : "labels");
  } else if (key === "[" || key === "]") {
    const size = Number(sizeInput.value);
    const by = Math.max(1, Math.round(size / 6));
    setSize(key === "]" ? size + by : size - by);
  } else {
    return;
  }
  event.preventDefault();
});
new ResizeObserver(drawRing).observe(canvas);

canvas.setAttribute("aria-label", `Label map, ${width} by ${height} pixels`);
sizeInput.max = Math.max(8, Math.round(Math.min(height, width) / 2));
choose(props.first);
setSize(Math.max(1, Math.round(Math.min(height, width) / 10)));
watch("value", load);
load();
