// Buttons of a row, drawn by the page: send what the one that was pressed stands for, a place or a name.
// Of presses that come while the first is answered, Gradio remembers only that there were some, and sends the first again;
// with one object for all, what it sends is the last.
const press = { act: "pick" };
let last = null;
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-pick]");
  last = button;
  if (button) trigger("click", Object.assign(press, { pick: button.dataset.pick }));
});

// A row is one stop of the Tab key, and arrow keys move in it. The focus survives a redraw.
const row = () => [...element.querySelectorAll("[role=group] [data-pick]")];
const stop = (at) => row().forEach((button) => { button.tabIndex = button === at ? 0 : -1; });
const drawn = () => {
  const buttons = row(), again = last && !last.isConnected && buttons.find((b) => b.dataset.pick === last.dataset.pick);
  stop(again || buttons.find((b) => b.ariaPressed === "true") || buttons[0]);
  if (again && document.activeElement === document.body) again.focus({ preventScroll: true });
};
element.addEventListener("focusin", ({ target }) => row().includes(target) && stop(target));
element.addEventListener("keydown", (event) => {
  const buttons = row(), at = buttons.indexOf(event.target), end = buttons.length - 1;
  const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -end, End: end }[event.key];
  if (at < 0 || !by || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  buttons[Math.min(Math.max(at + by, 0), end)].focus();
});
drawn();
watch("value", drawn);
