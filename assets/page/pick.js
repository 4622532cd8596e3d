// Buttons of a row, drawn by the page: send what the one that was pressed stands for, a place or a name.
// Of presses that come while the first is answered, Gradio remembers only that there were some, and sends the first again;
// with one object for all, what it sends is the last.
const press = { act: "pick" };
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-pick]");
  if (button) trigger("click", Object.assign(press, { pick: button.dataset.pick }));
});
