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

// Every press counts. Answers that come late move a button, or draw it again, between the press and the release of a
// mouse, a finger or the space bar: the browser then makes no click, or clicks what has come under the finger, and the
// button is clicked here, unless the pointer was dragged or the page scrolled. And Gradio builds a tab when it is first
// opened and then sets its controls once more: what somebody presses in between is put off until that is done, instead
// of being undone.
{
  const BUTTON = "a, button, summary, label:has(input[type=radio], input[type=checkbox])";
  const NEAR = 8;  // pixels; further off it was dragged
  const TAP = 500, LATE = 350;  // milliseconds: a longer touch is no tap; the browser's click after one may come so late
  const of = (event) => {
    const node = event.target.closest?.(BUTTON) ?? event.target;
    return { node, within: event.composedPath(), x: event.clientX, y: event.clientY, at: event.timeStamp };
  };
  const alike = (one, other) => one.textContent === other.textContent && one.ariaLabel === other.ariaLabel && JSON.stringify({ ...one.dataset }) === JSON.stringify({ ...other.dataset });
  const click = ({ node, within }) => {
    const drawn = () => within.find((part) => part.isConnected).querySelectorAll(node.localName);
    const now = node.isConnected ? node : node.matches?.(BUTTON) && [...drawn()].find((other) => alike(other, node));
    if (now) now.click();
    return now;
  };

  let pressed = null;
  const letGo = () => { pressed = null; };
  const released = (wait, then = () => {}) => {
    const now = pressed;
    setTimeout(() => {  // after the browser's own click
      if (pressed !== now) return;
      letGo();
      then(click(now));
    }, wait);
  };
  window.addEventListener("pointerdown", (event) => {
    const one = event.isPrimary && event.button === 0 && event.target.closest?.(BUTTON);
    pressed = one ? { ...of(event), finger: event.pointerType !== "mouse" } : null;
  }, true);
  window.addEventListener("click", (event) => {
    if (!pressed) return;
    const there = event.target.closest?.(BUTTON);
    if (event.composedPath().includes(pressed.node) || (there && alike(there, pressed.node))) letGo();
    else if (pressed.finger && event.isTrusted) {  // it has come under the finger
      event.preventDefault();
      event.stopImmediatePropagation();
    }
  }, true);
  window.addEventListener("pointermove", (event) => {
    if (pressed && Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y) > NEAR) letGo();
  }, true);
  for (const end of ["pointercancel", "contextmenu"]) window.addEventListener(end, letGo, true);
  window.addEventListener("pointerup", (event) => {
    if (!pressed) return;
    const far = Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y) > NEAR;
    if (far || (pressed.finger && event.timeStamp - pressed.at > TAP)) letGo();
    else released(pressed.finger ? LATE : 0);
  }, true);
  window.addEventListener("keydown", (event) => {
    if (event.key !== " ") return;
    if (!event.repeat) pressed = event.target.closest?.("button, summary") ? of(event) : null;
    else if (pressed && !pressed.node.isConnected) event.preventDefault();  // or the page scrolls
  }, true);
  window.addEventListener("keyup", (event) => {
    if (event.key !== " " || !pressed) return;
    if (pressed.node.isConnected) letGo();  // the browser clicks it, or the focus was moved on
    else released(0, (now) => document.activeElement === document.body && now?.focus({ preventScroll: true }));
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

// What is asked for is named at once, over what is put aside until it comes: an image or a reading in Predict, a map in
// Explain, a run in Teach or Compare. What a map is of ([data-of]) is compared with what the controls say, of those in
// sight.
{
  const coming = (id, words) => {
    const part = document.getElementById(id);
    if (!words) part?.removeAttribute("data-coming");
    else if (part && part.dataset.coming !== words) part.dataset.coming = words;
  };
  const value = (name) => {
    if (name === "image") return document.querySelector("#explain-filmstrip [aria-pressed=true]");
    const block = document.getElementById(`explain-${name}`);
    return block?.offsetParent ? block.querySelector("input:checked, input[type=range], input[type=checkbox]") : null;
  };
  const RUNS = {  // by where a run is shown: what starts one, and where it is said that there is none
    progress: ["#teach", "#teach-message"],
    "comparison-result": ["#compare, .questions button:not(#compare-models)", "#compare-message"],
  };
  let opened = false;  // Explain, with another image than it shows
  const compare = () => {
    const stage = document.querySelector("#maps [data-of]");
    if (!stage?.offsetParent) return;
    const of = JSON.parse(stage.dataset.of), image = value("image");
    const differ = Object.keys(of).filter((name) => {
      const now = value(name);
      const said = now?.dataset.pick ?? (now?.type === "checkbox" ? now.checked : now?.value);
      return now && String(of[name]) !== String(said);
    });
    const words = (name) => value(name)?.closest("label")?.textContent.trim().replace(/ \(slow\)$/, "");
    const about = words("class") && !differ.includes("method") ? ` for “${words("class")}”` : "";
    const where = differ.includes("image") ? `, ${image.title}` : "";
    coming("maps", differ.length || opened ? `Drawing ${words("method")}${about}${where} …` : "");
  };
  window.nearl.came = (id) => {
    opened &&= id !== "maps";
    coming(id, "");
    compare();
  };
  // A reading has just come: the editor is told whether its classes fit the image (null: as before).
  window.nearl.fresh = () => {
    const reading = document.getElementById("reading");
    if (!document.querySelector("#predict-message .error")) reading?.classList.remove("stale");
    const detail = reading?.querySelector(".unknown-kind") ? null : !reading?.querySelector(".unfit");
    const fits = new CustomEvent("fits", { bubbles: true, detail });
    document.querySelector("#predict-prompts .pe-root")?.dispatchEvent(fits);
    for (const id of ["viewer", "reading"]) window.nearl.came(id);
  };
  document.addEventListener("click", ({ target }) => {
    const strip = target.closest("#examples, #filmstrip, #explain-filmstrip"), button = target.closest("[data-pick]");
    if (button && strip?.id === "explain-filmstrip")
      for (const other of strip.querySelectorAll("[data-pick]")) other.ariaPressed = other === button;
    else if (button && strip) coming("viewer", `Opening ${button.title} …`);
    if (target.closest("#read, #reading [data-pick]")) coming("reading", "Reading the image …");
    for (const [id, [start]] of Object.entries(RUNS)) {
      if (!target.closest(start)) continue;
      coming(id, "Starting …");
      setTimeout(coming, 20000, id, "");  // in case that nothing changes
    }
    if (target.closest("#tabs [role=tab]")) {
      const now = document.querySelector("#viewer figure")?.dataset.image;
      const stage = document.querySelector("#maps [data-of]");
      opened = Boolean(now && stage) && now !== JSON.parse(stage.dataset.of).seen;
    }
    compare();
  });
  for (const act of ["input", "change"]) document.addEventListener(act, compare);
  new MutationObserver((changes) => {
    compare();
    const within = (where) => changes.some(({ target }) => target.closest?.(where));
    for (const id of ["viewer", "reading"]) if (within(`#${id}`)) coming(id, "");
    for (const [id, [, message]] of Object.entries(RUNS))
      if (within(`#${id}`) || (within(message) && document.querySelector(message)?.textContent.trim())) coming(id, "");
  }).observe(document, { subtree: true, childList: true });
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
