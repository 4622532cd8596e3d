// Buttons drawn by app/views.py: send the index of the one that was pressed.
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-pick]");
  if (button) trigger("click", { index: Number(button.dataset.pick) });
});
