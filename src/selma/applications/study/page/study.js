"use strict";
// One pair at a time. The page moves on only when the server says that the vote is saved, and it
// takes no vote before both images are visible: a second click would count for the next pair.
const PAUSE_MS = 350; // longer than the gap between the clicks of a double click
const byId = (id) => document.getElementById(id);
const buttons = [...document.querySelectorAll("[data-choice]")];
const keys = { 1: "left", 2: "tie", 3: "right", ArrowLeft: "left", ArrowRight: "right" };
const stacked = () => document.body.classList.contains("stacked");
const choiceOf = (key) => keys[key] ?? { ArrowUp: stacked() ? "left" : "tie", ArrowDown: stacked() ? "right" : "tie" }[key];
let state = null;
let busy = true;
let shownAt = 0;

function setBusy(value) {
  busy = value;
  // Not `disabled`, which would take the focus away from who works by keyboard.
  for (const button of [...buttons, byId("undo")]) button.setAttribute("aria-disabled", String(value));
  document.body.classList.toggle("busy", value);
}

function notice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
}

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Asks until there is an answer. A vote names its step, so that sending it again counts once.
async function ask(path, body) {
  const how = body ? { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) } : {};
  for (;;) {
    let reply;
    try {
      reply = await fetch(location.pathname + path, { ...how, signal: AbortSignal.timeout(15000) });
    } catch {
      notice(body ? "The server cannot be reached. Your last answer is not saved yet; trying again …" : "The server cannot be reached. Trying again …");
      await wait(1000);
      continue;
    }
    if (reply.ok) {
      notice("");
      return reply.json();
    }
    notice("Something is wrong with this study: " + (await reply.text()) + " Reload the page to try again.");
    throw new Error(String(reply.status));
  }
}

async function loaded(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

function place(img, image) {
  img.src = image.src;
  img.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
  img.classList.toggle("small", image.naturalWidth <= 256);
}

// Beside or above each other, whichever makes the images larger.
function arrange() {
  const { clientWidth: width, clientHeight: height } = document.querySelector(".images");
  const gap = 16;
  const ratio = Number(byId("left").style.getPropertyValue("--ratio")) || 1;
  const beside = Math.min((width - gap) / 2, height * ratio);
  const above = Math.min(width, ((height - gap) / 2) * ratio);
  document.body.classList.toggle("stacked", above > beside);
}

async function show(next) {
  state = next;
  const { current, following, done, total } = state;
  if (current) {
    let images;
    try {
      images = await Promise.all([loaded(current.left), loaded(current.right)]);
    } catch {
      notice("An image cannot be shown. Tell whoever runs the study, then reload the page.");
      return;
    }
    // All three at once: nobody may compare an image with the previous caption.
    byId("caption").textContent = current.text;
    byId("caption").classList.toggle("long", current.text.length > 170);
    byId("caption").scrollTop = 0;
    place(byId("left"), images[0]);
    place(byId("right"), images[1]);
    byId("said").textContent = `${done + 1} of ${total}: ${current.text}`;
  } else {
    byId("said").textContent = "All answers are saved. Thank you.";
  }
  for (const button of buttons) button.classList.remove("chosen");
  byId("pair").hidden = !current;
  byId("end").hidden = Boolean(current);
  if (!current) byId("end").focus();
  arrange();
  byId("bar").value = done;
  byId("count").firstElementChild.textContent = done;
  byId("undo").hidden = state.last_vote === null;
  shownAt = performance.now();
  await wait(PAUSE_MS);
  setBusy(false);
  if (following) for (const url of [following.left, following.right]) loaded(url).catch(() => {});
}

async function act(request) {
  setBusy(true);
  try {
    await show(await request());
  } catch (error) {
    console.error(error);
  }
}

function choose(choice) {
  if (busy || !state.current) return;
  const vote = { step: state.current.step, choice, seconds: (performance.now() - shownAt) / 1000 };
  buttons.find((button) => button.dataset.choice === choice).classList.add("chosen");
  act(async () => {
    const next = await ask("/choice", vote);
    if (!next.counted) notice("This pair was answered in another window; going on from there.");
    return next;
  });
}

function undo() {
  if (busy || state.last_vote === null) return;
  act(() => ask("/undo", { vote: state.last_vote }));
}

for (const button of buttons) button.addEventListener("click", () => choose(button.dataset.choice));
byId("undo").addEventListener("click", undo);
for (const frame of document.querySelectorAll(".frame")) {
  frame.addEventListener("click", () => {
    const large = byId("large").firstElementChild;
    place(large, frame.firstElementChild);
    large.alt = frame.firstElementChild.alt;
    byId("large").showModal();
  });
}
byId("large").addEventListener("click", () => byId("large").close());
new ResizeObserver(arrange).observe(document.querySelector(".images"));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("large").open) return;
  if (event.repeat) {
    // A key that is held down would answer pair after pair.
    if (choiceOf(event.key) || ["Backspace", "Enter", " "].includes(event.key)) event.preventDefault();
    return;
  }
  if (choiceOf(event.key)) {
    event.preventDefault();
    choose(choiceOf(event.key));
  } else if (event.key === "Backspace") {
    event.preventDefault();
    undo();
  }
});
// Another window may have gone on meanwhile.
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !busy) act(() => ask("/state"));
});
act(() => ask("/state"));
