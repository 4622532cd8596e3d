// The drawing of a correction on the Learn tab: a slider turns it, and it is split into the parts along and across the
// feature that it corrects.
const slider = element.querySelector("#turn");
const [x0, y0, foot, length] = [24, 184, 220, 132];
const place = (name, path) => element.querySelector(`.drawing .${name}`).setAttribute("d", path);
const write = (name, x, y) => {
  const text = element.querySelector(`[data-at=${name}]`);
  text.setAttribute("x", x);
  text.setAttribute("y", y);
};
const draw = () => {
  const angle = (slider.value * Math.PI) / 180;
  const x = foot + length * Math.cos(angle);
  const y = y0 - length * Math.sin(angle);
  place("update", `M${foot} ${y0}L${x} ${y}`);
  place("new", `M${foot} ${y0}V${y}`);
  place("along", `M${foot} ${y0}H${x}M${x} ${y}V${y0}M${x} ${y}H${foot}`);
  place("sum", `M${x0} ${y0}L${x} ${y}`);
  place("result", `M${x0} ${y0}L${foot} ${y}`);
  const right = x > foot;
  write("update", right ? Math.min(x + 6, 334) : Math.max(x - 66, 2), Math.max(y - 6, 12));
  write("new", right ? foot - 82 : foot + 8, y - 6);
  const percent = (value) => `${Math.round(100 * value)}\u202f%`;
  element.querySelector("#turned").textContent =
    `Of this correction ${percent(Math.sin(angle) ** 2)} is new and added; ${percent(Math.cos(angle) ** 2)} ` +
    `${right ? "repeats" : "takes back"} what the layer says and is left out. The thin green arrow is what the next layer gets.`;
};
slider.addEventListener("input", draw);
draw();
