// Buttons and forms of Teach and Compare: one with [data-act] sends its data attributes, those of the part it is in
// ([data-state]), what is ticked, and a form's field `to`. The focus survives a redraw.
let last = null;

const same = (a, b) => JSON.stringify({ ...a.dataset }) === JSON.stringify({ ...b.dataset });

const send = (node) => {
  const state = element.querySelector("[data-state]")?.dataset ?? {};
  const ticked = [...element.querySelectorAll("input[data-index]:checked")].map((box) => box.dataset.index);
  const to = node.elements?.to?.value;
  last = node;
  document.body.dataset.act = node.dataset.act;
  trigger("click", { ...state, ...node.dataset, ticked, ...(to === undefined ? {} : { to }) });
};

element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-act]");
  if (button) send(button);
});
element.addEventListener("submit", (event) => {
  event.preventDefault();
  send(event.target);
});
watch("value", () => {
  if (!last || last.isConnected) return;
  const again = [...element.querySelectorAll("[data-act]")].find((node) => same(node, last));
  last = null;
  if (document.activeElement === document.body) again?.focus({ preventScroll: true });
});
