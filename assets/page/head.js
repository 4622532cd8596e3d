// Links such as <a data-tab="Teach"> open a tab. A group of radio buttons gets its label as its name, which Gradio
// leaves out, so that a screen reader says it. A downloaded map gets its name, which
// holds that of the image, in the page: the server writes no such name to disk.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-tab]");
  if (!link) return;
  event.preventDefault();
  [...document.querySelectorAll("button[role=tab]")].find((b) => b.textContent.trim() === link.dataset.tab)?.click();
  window.scrollTo(0, 0);
});
document.addEventListener("focusin", (event) => {
  const group = event.target.closest("fieldset:not([aria-label])");
  const label = group?.querySelector("[data-testid=block-info]")?.textContent.trim();
  if (label) group.setAttribute("aria-label", label);
});
document.addEventListener("click", async (event) => {
  const link = event.target.closest?.('a[download="map.png"]');
  const name = document.querySelector("#maps [data-file]")?.dataset.file;
  if (!link || !name) return;
  event.preventDefault();
  const named = Object.assign(document.createElement("a"), { download: name });
  named.href = URL.createObjectURL(await (await fetch(link.href)).blob());
  named.click();
  setTimeout(() => URL.revokeObjectURL(named.href), 60000);
}, true);
