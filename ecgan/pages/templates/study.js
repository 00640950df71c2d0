"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const total = data.questions.length;
const at = (id) => document.getElementById(id);
const PLACE = `ecgan-study-${data.study}`;

function randomHex() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
}

/* Every rater gets the questions in an order of their own, drawn once and then kept. */
function shuffled() {
  const order = [...Array(total).keys()];
  const draws = crypto.getRandomValues(new Uint32Array(total));
  for (let i = total - 1; i > 0; i--) {
    const j = draws[i] % (i + 1);
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

function isState(value) {
  return value && typeof value.rater === "string" && Array.isArray(value.order) && Array.isArray(value.answers) &&
    value.order.length === total && new Set(value.order).size === total &&
    value.order.every((q) => Number.isInteger(q) && q >= 0 && q < total) && value.answers.length <= total &&
    value.answers.every((a, i) => a && a.question === value.order[i] && ["left", "right"].includes(a.choice));
}

function load() {
  try {
    const kept = JSON.parse(localStorage.getItem(PLACE));
    if (isState(kept)) return kept;
  } catch { /* nothing kept, or nothing may be kept: start anew */ }
  return { rater: randomHex(), started: new Date().toISOString(), order: shuffled(), answers: [] };
}

function save() {
  try {
    localStorage.setItem(PLACE, JSON.stringify(state));
  } catch {
    at("unsaved").hidden = false;
  }
}

const state = load();
let shownAt = 0;

function show(...ids) {
  for (const id of ["start", "top", "progress", "question", "bottom", "end"]) at(id).hidden = !ids.includes(id);
}

function ask() {
  const done = state.answers.length;
  if (done === total) { finish(); return; }
  const question = data.questions[state.order[done]];
  at("left").querySelector("img").src = question.images[0];
  at("right").querySelector("img").src = question.images[1];
  if (question.label !== null) at("label").src = question.label;
  at("position").textContent = `${done + 1} of ${total}`;
  at("progress").value = done / total;
  at("back").disabled = done === 0;
  show("top", "progress", "question", "bottom");
  if (document.activeElement instanceof HTMLElement) document.activeElement.blur();
  shownAt = performance.now();
}

function choose(choice) {
  // A second tap that comes while the next pair appears is meant for the one before.
  if (at("question").hidden || performance.now() - shownAt < 150) return;
  const seconds = Math.round((performance.now() - shownAt) / 100) / 10;
  state.answers.push({ question: state.order[state.answers.length], choice, seconds });
  save();
  ask();
}

function back() {
  if (at("question").hidden || state.answers.length === 0) return;
  state.answers.pop();
  save();
  ask();
}

function finish() {
  const done = state.answers.length;
  at("summary").textContent = done === total
    ? `You have answered all ${total} questions.`
    : `You have answered ${done} of ${total} questions.`;
  at("download").disabled = done === 0;
  at("resume").hidden = done === total;
  show("end");
}

function download() {
  const document_ = {
    format: data.format, kind: "ecgan study answers", study: data.study, rater: state.rater,
    started: state.started, finished: new Date().toISOString(), complete: state.answers.length === total,
    answers: state.answers,
  };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(document_, null, 1)], { type: "application/json" }));
  link.download = `answers-${data.study.slice(0, 8)}-${state.rater.slice(0, 8)}.json`;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

at("count").textContent = total;
at("begin").textContent = state.answers.length > 0 ? "Go on" : "Start";
at("begin").addEventListener("click", () => { save(); ask(); });
at("left").addEventListener("click", () => choose("left"));
at("right").addEventListener("click", () => choose("right"));
at("back").addEventListener("click", back);
at("stop").addEventListener("click", finish);
at("resume").addEventListener("click", ask);
at("download").addEventListener("click", download);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || at("question").hidden) return;
  const action = { ArrowLeft: () => choose("left"), ArrowRight: () => choose("right"), Backspace: back }[event.key];
  if (action) { event.preventDefault(); action(); }
});
save();
