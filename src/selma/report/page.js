// Shows the cards of one group, or those whose score changed. Without it all cards are shown.
for (const bar of document.querySelectorAll(".chips")) {
  bar.hidden = false;
  bar.addEventListener("click", (event) => {
    const chip = event.target.closest("button");
    if (!chip) return;
    for (const other of bar.children) other.setAttribute("aria-pressed", other === chip);
    for (const card of bar.nextElementSibling.children) {
      const wanted = chip.value;
      card.hidden = !(wanted === "*" || card.dataset.group === wanted
        || (wanted === "" && card.dataset.changed === "yes"));
    }
  });
}
