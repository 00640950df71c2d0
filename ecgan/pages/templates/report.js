"use strict";

/* ---- sample sheets ---- */

const sheets = [...document.querySelectorAll(".sample")];

function showSheet(index) {
  sheets.forEach((sheet, i) => { sheet.hidden = i !== index; });
  document.getElementById("slider").value = index;
  document.getElementById("sample-step").textContent =
    Number(sheets[index].dataset.step).toLocaleString("en");
  document.getElementById("previous").disabled = index === 0;
  document.getElementById("next").disabled = index === sheets.length - 1;
}

if (sheets.length > 0) {
  const slider = document.getElementById("slider");
  slider.addEventListener("input", () => showSheet(slider.valueAsNumber));
  document.getElementById("previous").addEventListener("click", () => showSheet(slider.valueAsNumber - 1));
  document.getElementById("next").addEventListener("click", () => showSheet(slider.valueAsNumber + 1));
  document.getElementById("sample-controls").hidden = sheets.length === 1;
  showSheet(sheets.length - 1);
}

/* ---- curves ---- */

const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { left: 52, right: 10, top: 10, bottom: 22 };
const HEIGHT = 190;
// What all charts share; range is null for the whole run.
const view = { axis: "step", log: false, smoothing: 0.6, range: null };
const charts = [];

function element(name, attributes, parent, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

function format(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e");
  return String(Number(value.toPrecision(4)));
}

function places() {
  return view.axis === "step" ? data.step : data.seconds.map((s) => (s === null ? null : s / 60));
}

/* Exponential mean, corrected for its start; a gap stays a gap. */
function smoothed(values, weight) {
  let mean = 0, share = 1;
  return values.map((value) => {
    if (value === null) return null;
    mean = weight * mean + (1 - weight) * value;
    share *= weight;
    return mean / (1 - share);
  });
}

function niceTicks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high * (1 + 1e-12); i++) ticks.push(i * step);
  return ticks;
}

function logTicks(low, high) {
  const ticks = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
    for (const m of high / low < 50 ? [1, 2, 5] : [1]) {
      const tick = m * 10 ** e;
      if (tick >= low && tick <= high) ticks.push(tick);
    }
  }
  const every = Math.ceil(ticks.length / 6);
  return ticks.filter((_, i) => i % every === 0);
}

class Chart {
  constructor(series, parent) {
    this.series = series;
    const figure = document.createElement("figure");
    figure.className = "chart";
    const caption = document.createElement("figcaption");
    const title = document.createElement("span");
    title.textContent = series.title;
    this.readout = document.createElement("output");
    caption.append(title, this.readout);
    this.svg = element("svg", { tabindex: 0, role: "img" });
    figure.append(caption, this.svg);
    parent.append(figure);
    this.pointed = null;
    this.svg.addEventListener("pointermove", (event) => this.move(event));
    this.svg.addEventListener("pointerdown", (event) => this.press(event));
    this.svg.addEventListener("pointerup", (event) => this.release(event));
    this.svg.addEventListener("pointercancel", () => { this.pressed = undefined; this.draw(); });
    this.svg.addEventListener("pointerleave", () => { if (this.pressed === undefined) this.point(null); });
    this.svg.addEventListener("dblclick", () => setRange(null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
    this.svg.addEventListener("blur", () => this.point(null));
  }

  draw() {
    const width = Math.max(160, this.svg.clientWidth);
    const x = places();
    const [first, last] = view.range ?? wholeRange();
    const usable = (v) => v !== null && (!view.log || v > 0);
    this.visible = [];
    x.forEach((place, i) => {
      if (place !== null && place >= first && place <= last && usable(this.series.mean[i])) this.visible.push(i);
    });
    this.curve = smoothed(this.series.mean.map((v) => (usable(v) ? v : null)), this.series.exact ? 0 : view.smoothing);
    this.svg.replaceChildren();
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.marks = null;
    if (this.visible.length === 0) {
      element("text", { x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, this.svg, "no values to show here");
      this.svg.setAttribute("aria-label", `${this.series.title}: no values to show`);
      this.show(null);
      return;
    }
    const shown = this.visible.flatMap((i) =>
      [this.series.mean[i], this.series.low?.[i], this.series.high?.[i]].filter((v) => v !== undefined && usable(v)));
    let low = shown.reduce((a, b) => Math.min(a, b)), high = shown.reduce((a, b) => Math.max(a, b));
    const scale = view.log ? Math.log10 : (v) => v;
    if (low === high) {
      const room = Math.abs(low) * 0.1 || 1;
      [low, high] = view.log ? [low / 2, high * 2] : [low - room, high + room];
    }
    const bottom = HEIGHT - MARGIN.bottom, span = scale(high) - scale(low);
    this.px = (v) => MARGIN.left + ((v - first) / (last - first || 1)) * (width - MARGIN.left - MARGIN.right);
    this.py = (v) => bottom - ((scale(v) - scale(low)) / span) * (bottom - MARGIN.top);
    for (const tick of view.log ? logTicks(low, high) : niceTicks(low, high, 4)) {
      const y = this.py(tick);
      element("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y }, this.svg);
      element("text", { x: MARGIN.left - 6, y: y + 4, "text-anchor": "end" }, this.svg, format(tick));
    }
    for (const tick of niceTicks(first, last, Math.max(2, Math.floor(width / 60)))) {
      const anchor = this.px(tick) > width - 24 ? "end" : "middle";
      element("text", { x: this.px(tick), y: HEIGHT - 5, "text-anchor": anchor }, this.svg, format(tick));
    }
    if (this.series.low) {
      const at = (values) => this.visible.map((i) => `${this.px(x[i])},${this.py(usable(values[i]) ? values[i] : low)}`);
      const outline = [...at(this.series.high), ...at(this.series.low).reverse()];
      element("polygon", { class: "band", points: outline.join(" ") }, this.svg);
    }
    if (view.smoothing > 0 && !this.series.exact) this.line("raw", this.series.mean, x);
    this.line("smooth", this.curve, x);
    if (this.visible.length === 1) {
      const i = this.visible[0];
      element("circle", { class: "dot", cx: this.px(x[i]), cy: this.py(this.series.mean[i]), r: 3 }, this.svg);
    }
    this.marks = element("g", {}, this.svg);
    const end = this.visible[this.visible.length - 1];
    this.svg.setAttribute("aria-label",
      `${this.series.title}: from ${format(low)} to ${format(high)}, last ${format(this.series.mean[end])}`);
    this.show(this.pointed);
  }

  /* A line breaks where the values between two of its points are missing. */
  line(kind, values, x) {
    let path = "", before = null;
    for (const i of this.visible) {
      path += `${before === i - 1 ? "L" : "M"}${this.px(x[i]).toFixed(1)},${this.py(values[i]).toFixed(1)}`;
      before = i;
    }
    element("path", { class: kind, d: path }, this.svg);
  }

  point(index) {
    this.pointed = index;
    this.show(index);
  }

  show(index) {
    const x = places();
    if (this.marks) this.marks.replaceChildren();
    if (this.visible.length === 0) { this.readout.textContent = ""; return; }
    const i = index !== null && this.visible.includes(index) ? index : this.visible[this.visible.length - 1];
    const unit = view.axis === "step" ? "step" : "min";
    this.readout.textContent = `${format(this.series.mean[i])} · ${unit} ${format(x[i])}`;
    if (index === null) return;
    const cx = this.px(x[i]);
    element("line", { class: "cross", x1: cx, x2: cx, y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }, this.marks);
    element("circle", { class: "dot", cx, cy: this.py(this.curve[i]), r: 3.5 }, this.marks);
  }

  nearest(clientX) {
    const x = places(), at = clientX - this.svg.getBoundingClientRect().left;
    const far = (i) => Math.abs(this.px(x[i]) - at);
    return this.visible.reduce((best, i) => (far(i) < far(best) ? i : best), this.visible[0]);
  }

  move(event) {
    if (this.visible.length === 0) return;
    this.point(this.nearest(event.clientX));
    if (this.pressed === undefined) return;
    const left = this.svg.getBoundingClientRect().left;
    const [from, to] = [this.pressed - left, event.clientX - left].sort((a, b) => a - b);
    element("rect", { class: "brush", x: from, width: to - from, y: MARGIN.top,
      height: HEIGHT - MARGIN.top - MARGIN.bottom }, this.marks);
  }

  press(event) {
    if (this.visible.length === 0) return;
    this.point(this.nearest(event.clientX));
    if (event.pointerType !== "mouse" || event.button !== 0) return; // a finger scrolls the page
    this.pressed = event.clientX;
    this.svg.setPointerCapture(event.pointerId);
  }

  release(event) {
    if (this.pressed === undefined) return;
    const [from, to] = [this.pressed, event.clientX].sort((a, b) => a - b);
    this.pressed = undefined;
    if (to - from < 8) return;
    const x = places(), range = [x[this.nearest(from)], x[this.nearest(to)]];
    if (range[0] < range[1]) setRange(range);
  }

  key(event) {
    const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
    if (!(event.key in moves) || this.visible.length === 0) return;
    event.preventDefault();
    const last = this.visible.length - 1;
    const at = this.visible.indexOf(this.pointed ?? this.visible[last]);
    this.point(this.visible[Math.min(last, Math.max(0, at + moves[event.key]))]);
  }
}

function wholeRange() {
  const known = places().filter((place) => place !== null);
  return [known[0] ?? 0, known[known.length - 1] ?? 1];
}

function setRange(range) {
  view.range = range;
  document.getElementById("whole").disabled = range === null;
  charts.forEach((chart) => chart.draw());
}

if (data.series.length > 0) {
  const place = document.getElementById("charts");
  for (const group of new Set(data.series.map((series) => series.group))) {
    const title = document.createElement("h3");
    title.textContent = group;
    const grid = document.createElement("div");
    grid.className = "charts";
    place.append(title, grid);
    for (const series of data.series) if (series.group === group) charts.push(new Chart(series, grid));
  }
  const redraw = (key, read) => (event) => { view[key] = read(event.target); charts.forEach((chart) => chart.draw()); };
  document.getElementById("smoothing").addEventListener("input", redraw("smoothing", (input) => input.valueAsNumber));
  document.getElementById("log").addEventListener("change", redraw("log", (input) => input.checked));
  const axis = document.getElementById("axis");
  axis.addEventListener("change", () => { view.axis = axis.value; setRange(null); });
  axis.options[1].disabled = data.seconds.every((s) => s === null);
  document.getElementById("whole").addEventListener("click", () => setRange(null));
  document.getElementById("curve-controls").hidden = false;
  document.getElementById("curve-hint").hidden = false;
  new ResizeObserver(() => charts.forEach((chart) => chart.draw())).observe(place);
}
