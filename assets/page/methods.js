// Cards with a tick each. `props.value` is {html, ticked}: the cards as app/compare/html.py draws them, and the names
// of those that are ticked.
const root = element.querySelector(".methods-root");
const boxes = () => [...root.querySelectorAll("input[data-name]")];

const draw = () => {
  const { html = "", ticked = [] } = props.value ?? {};
  if (root.dataset.drawn !== String(html.length)) root.innerHTML = html;
  root.dataset.drawn = html.length;
  boxes().forEach((box) => { box.checked = ticked.includes(box.dataset.name); });
};

root.addEventListener("change", () => {
  const ticked = boxes().filter((box) => box.checked).map((box) => box.dataset.name);
  props.value = { ...props.value, ticked };
  trigger("input");
});
watch("value", draw);
draw();
