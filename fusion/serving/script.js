"use strict";

const HUES = 8;
const at = (id) => document.getElementById(id);
const seen = new Map(); // class -> the number of its colour, in the order of appearance
let limit = 16 << 20;
let turn = 0; // only the answer to the latest image is shown

function make(tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
}

function say(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

function hue(number) {
  if (!seen.has(number)) seen.set(number, seen.size);
  return seen.get(number) < HUES ? `var(--c${seen.get(number)})` : "var(--other)";
}

function called(best) {
  return best.label || `class ${best.class}${best.foreign ? " of its own" : ""}`;
}

function percent(share) {
  return share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
}

function row(best) {
  const item = make("li");
  const name = make("span", "name", called(best));
  if (best.label) name.title = `class ${best.class}`;
  const bar = make("div", "bar");
  const fill = make("i");
  fill.style.setProperty("--share", best.share);
  fill.style.setProperty("--hue", hue(best.class));
  bar.append(fill);
  item.append(name, make("span", "share", percent(best.share)), bar);
  item.title = `score ${best.score.toPrecision(6)}`;
  return item;
}

// A card has the net's name if only one output of the net knows all classes; cards of other outputs have theirs.
function card(answer, answers) {
  for (const best of answer.top) best.foreign = answer.foreign;
  const rivals = answers.filter((other) => other.net === answer.net && Boolean(other.knows) === Boolean(answer.knows));
  const whole = answers.filter((other) => other.net === answer.net).length === 1 || (rivals.length === 1 && !answer.knows);
  const node = make("article", "card");
  node.append(make("h2", "", whole ? answer.net : answer.output));
  const from = [whole ? answer.output : answer.net];
  if (answer.softmax) from.push("shares by softmax");
  if (answer.knows) from.push(knowledge(answer.knows));
  if (answer.foreign) from.push("its own classes");
  node.append(make("p", "quiet", from.join(" · ")));
  const best = make("p", "best", called(answer.top[0]));
  best.style.color = hue(answer.top[0].class);
  const list = make("ol");
  list.append(...answer.top.map(row));
  node.append(best, list);
  return node;
}

function knowledge(classes) {
  return classes.length > 8 ? `knows ${classes.length} classes` : `knows ${classes.join(", ")} only`;
}

// A net that knows only some classes, or has classes of its own, must answer with one of those: it has no vote.
function verdict(answers) {
  const voters = answers.filter((answer) => !answer.knows && !answer.foreign);
  const votes = new Set(voters.map((answer) => answer.top[0].class));
  if (voters.length < 2) return "";
  const who = voters.length === answers.length ? "All answers" : "The nets with all classes";
  return ` ${who} ${votes.size === 1 ? "agree" : "do not agree"}.`;
}

function show(found) {
  seen.clear();
  at("answers").replaceChildren(...found.answers.map((answer) => card(answer, found.answers)));
  say(`Answered in ${found.milliseconds} ms.${verdict(found.answers)}`);
}

function preview(file) {
  const picture = at("picture");
  if (picture.src) URL.revokeObjectURL(picture.src);
  picture.onload = () => {
    picture.classList.toggle("tiny", Math.max(picture.naturalWidth, picture.naturalHeight) < 100);
    picture.hidden = false;
  };
  picture.onerror = () => { picture.hidden = true; };
  picture.alt = file.name ? `The image ${file.name}` : "The image";
  picture.src = URL.createObjectURL(file);
}

async function ask(file) {
  if (!file) return;
  const mine = ++turn;
  at("answers").classList.add("old");
  if (file.size > limit) {
    say(`This file has ${(file.size / 1048576).toFixed(1)} MB; the limit is ${limit >> 20} MB.`, true);
    return;
  }
  preview(file);
  say("Waiting for the answer …");
  try {
    const reply = await fetch("answer", { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
    const found = await reply.json();
    if (mine !== turn) return;
    if (!reply.ok) throw new Error(found.error);
    show(found);
    at("answers").classList.remove("old");
  } catch (error) {
    if (mine === turn) say(error instanceof TypeError ? "The server does not answer: is it still running?" : error.message, true);
  }
}

function pictureIn(transfer) {
  return [...(transfer ? transfer.files : [])][0];
}

async function start() {
  const about = await (await fetch("about")).json();
  limit = about.limit;
  at("nets").textContent = about.nets.map((net) => `${net.name} (${net.inputs.join("; ")})`).join(" · ");
  at("notes").replaceChildren(...about.notes.map((note) => make("li", "", note)));
}

at("file").addEventListener("change", (event) => {
  ask(event.target.files[0]);
  event.target.value = ""; // so that the same file may be chosen again
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  at("ask").classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) at("ask").classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  at("ask").classList.remove("over");
  const file = pictureIn(event.dataTransfer);
  if (file) ask(file);
  else say("Only files can be dropped here.", true);
});
addEventListener("paste", (event) => {
  const file = pictureIn(event.clipboardData);
  if (file) ask(file);
});
start().catch(() => say("The list of nets could not be loaded.", true));
