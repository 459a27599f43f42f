"use strict";
// Both images are asked for at once; the server draws one after the other.
const byId = (id) => document.getElementById(id);
const prefix = document.body.dataset.prefix;
let drawn = 0; // the last request; older replies are passed over
let leaving = new AbortController();

async function draw(model, asked) {
  const reply = await fetch(prefix + "/v1/images/generations", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...asked, model, response_format: "b64_json" }),
    signal: leaving.signal,
  });
  const told = await reply.json();
  if (!reply.ok) throw new Error(told.error.message);
  const bytes = Uint8Array.from(atob(told.data[0].b64_json), (c) => c.charCodeAt(0));
  return new Blob([bytes], { type: "image/png" });
}

async function show(id, blob, text) {
  const image = byId(id);
  if (image.src) URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
  image.alt = text;
  await image.decode();
  image.hidden = false;
}

byId("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const number = ++drawn;
  leaving.abort(); // so that the server does not draw what nobody waits for
  leaving = new AbortController();
  const model = byId("model").value;
  const asked = {
    prompt: byId("prompt").value,
    seed: Number(byId("seed").value),
    num_inference_steps: Number(byId("steps").value),
    guidance_scale: Number(byId("guidance").value),
  };
  byId("notice").textContent = "Drawing …";
  document.body.classList.add("busy");
  const [left, right] = [["left", "base"], ["right", model]].map(async ([id, name]) => {
    const blob = await draw(name, asked);
    if (number === drawn) await show(id, blob, `${name}: ${asked.prompt}`);
  });
  try {
    await Promise.all([left, right]);
    if (number !== drawn) return;
    for (const id of ["which", "beside"]) byId(id).textContent = model;
    document.title = `Base and ${model}, side by side`;
    byId("notice").textContent = `Seed ${asked.seed}`;
    if (byId("next").checked) byId("seed").value = (asked.seed + 1) % 2 ** 32;
  } catch (error) {
    if (number === drawn) byId("notice").textContent = error.message;
  } finally {
    if (number === drawn) document.body.classList.remove("busy");
  }
});

byId("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    byId("form").requestSubmit();
  }
});
