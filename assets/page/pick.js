// Buttons of a row, drawn by the page: send what the one that was pressed stands for, a place or a name.
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-pick]");
  if (button) trigger("click", { act: "pick", pick: button.dataset.pick });
});
