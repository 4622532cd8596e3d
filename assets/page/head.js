// What the whole page needs: the tab in the address, names for screen readers, arrow keys, answers that arrive, and
// downloads with a name.

// Gradio ends its stream of answers when the page may be left (`beforeunload`): answers are lost if it stays, and an
// event that is sent before it is gone opens another stream, which the server refuses. The browser ends streams itself.
{
  const abort = AbortController.prototype.abort;
  AbortController.prototype.abort = function (...why) {
    if (window.event?.type !== "beforeunload") abort.apply(this, why);
  };
}

// The open tab is the part of the address behind "#/", so that a reload and the browser's back button find it again.
// Links such as <a data-tab="Teach" href="#/teach"> open a tab.
{
  const tabs = () => [...document.querySelectorAll("#tabs button[data-tab-id]")];
  const named = (id) => tabs().find((tab) => tab.dataset.tabId === id);
  const asked = () => location.hash.replace("#/", "") || tabs()[0]?.dataset.tabId;
  let shown = null;
  const follow = () => {
    const now = tabs().find((tab) => tab.ariaSelected === "true")?.dataset.tabId;
    if (!now || now === shown) return;
    const first = shown === null;
    shown = now;
    if (first) named(asked())?.click();
    else if (asked() !== now) history.pushState(null, "", `${location.pathname}${location.search}#/${now}`);
  };
  // A page that opens without a tab in its address shows that of a run that is going on, unless somebody is quicker.
  let landing = !location.hash;
  for (const act of ["pointerdown", "keydown"]) window.addEventListener(act, () => { landing = false; }, { capture: true, once: true });
  const land = () => {
    const badge = landing && document.querySelector("#badges a");
    if (!badge) return;
    landing = false;
    badge.click();
  };
  window.addEventListener("popstate", () => named(asked())?.click());
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-tab]");
    if (!link) return;
    event.preventDefault();
    tabs().find((tab) => tab.textContent.trim() === link.dataset.tab)?.click();
    window.scrollTo(0, 0);
  });
  document.addEventListener("keydown", (event) => {
    const all = tabs(), place = all.indexOf(event.target);
    const to = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: -1 }[event.key];
    if (place < 0 || to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const next = all.at(to % all.length);
    next.click();
    next.focus();
  });

  // A group of radio buttons gets its label as its name, and one name for all of its buttons, so that arrow keys move
  // within it. Gradio gives it neither, and a button another name of its own whenever it is chosen or left.
  const group = (fieldset) => {
    const label = fieldset.querySelector("[data-testid=block-info]")?.textContent.trim();
    if (!label) return;
    if (fieldset.ariaLabel !== label) fieldset.setAttribute("aria-label", label);
    if (fieldset.role !== "radiogroup") fieldset.setAttribute("role", "radiogroup");
    for (const radio of fieldset.querySelectorAll("input[type=radio]"))
      if (fieldset.id && radio.name !== fieldset.id) radio.name = fieldset.id;
  };
  new MutationObserver(() => {
    follow();
    land();
    document.querySelectorAll("fieldset.block").forEach(group);
  }).observe(document, { subtree: true, childList: true, attributeFilter: ["aria-selected", "name"] });
}

// Every press counts. Answers that come late move a button, or draw it again, between the press and the release of the
// mouse: the browser then makes no click, and the button is clicked here, unless the mouse was dragged away. And Gradio
// builds a tab when it is first opened and then sets its controls once more: what somebody presses in between is put off
// until that is done, instead of being undone.
{
  const BUTTON = "a, button, summary, label:has(input[type=radio], input[type=checkbox])";
  const NEAR = 8;  // pixels; further off the mouse was dragged
  const of = (event) => {
    const node = event.target.closest?.(BUTTON) ?? event.target;
    return { node, within: event.composedPath(), x: event.clientX, y: event.clientY };
  };
  const alike = (one, other) => one.textContent === other.textContent && JSON.stringify({ ...one.dataset }) === JSON.stringify({ ...other.dataset });
  const click = ({ node, within }) => {
    const drawn = () => within.find((part) => part.isConnected).querySelectorAll(node.localName);
    const now = node.isConnected ? node : node.matches?.(BUTTON) && [...drawn()].find((other) => alike(other, node));
    if (now) now.click();
  };

  let pressed = null;
  window.addEventListener("pointerdown", (event) => {
    pressed = event.pointerType === "mouse" && event.button === 0 && event.target.closest?.(BUTTON) ? of(event) : null;
  }, true);
  window.addEventListener("click", (event) => {
    if (pressed && event.composedPath().includes(pressed.node)) pressed = null;
  }, true);
  window.addEventListener("pointerup", (event) => {
    const now = pressed;
    if (!now || Math.hypot(event.clientX - now.x, event.clientY - now.y) > NEAR) pressed = null;
    else setTimeout(() => {  // after the browser's own click
      if (pressed !== now) return;
      pressed = null;
      click(now);
    });
  }, true);

  const built = new Set();
  let held = null;  // what was pressed, while a tab is being built
  const release = () => {
    const presses = held;
    held = null;
    presses.forEach(click);
  };
  document.addEventListener("click", (event) => {
    const tab = event.target.closest?.("#tabs button[data-tab-id]");
    if (tab && !built.has(tab.dataset.tabId)) {
      built.add(tab.dataset.tabId);
      held ??= [];
      requestAnimationFrame(() => requestIdleCallback(() => held && release(), { timeout: 2000 }));
    } else if (held && !tab && event.target.closest?.("[role=tabpanel]")) {
      event.preventDefault();
      event.stopImmediatePropagation();
      held.push(of(event));
    }
  }, true);
}

// A downloaded map gets its name, which holds that of the image, in the page: the server writes no such name to disk.
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

// After every upload Gradio's client warns that a part of its own is not finished.
{
  const warn = console.warn;
  console.warn = (...words) => words[0] === "Method not implemented." || warn.apply(console, words);
}
