// The editable table of classes and prompts. `props.value` is a prompt set as nearl.prompts writes it:
// {name, description, templates: [..], classes: [{name, prompts: [..]}]}, of findings also kind: "findings", rules: [..]
// and for each class absent: [..], the prompts of the images without it. `config` is
// {uid, sets, titles, beside, fixed}, where `sets` are the ready ones, `titles` their names to show, `beside` what to say
// beside some names where the model was measured, and `fixed` means that only the prompts can be edited. (Gradio forgets a
// component's own props when it is hidden and shown again, but not its script.)
// User text only ever enters the page through `value` and `textContent`, never as HTML.
const uid = config.uid;
let unfit = false;

const make = (tag, attributes = {}, children = []) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") node.textContent = value;
    else if (key === "value") node.value = value;
    else node.setAttribute(key, value);
  }
  children.forEach((child) => node.append(child));
  return node;
};

const lines = (text) => text.split(/[\n;]/).map((line) => line.trim()).filter(Boolean);

const ready = (name) => Object.keys(config.sets).find((key) => config.sets[key].name === name);

const title = (key) => {
  const beside = document.querySelector("#header [data-unmeasured]") ? "" : config.beside[key];
  return config.titles[key] + (beside ? `: ${beside}` : "");
};

const several = (value) => value?.kind === "findings";

const sameNames = (one, other) => JSON.stringify(one.map((c) => c.name)) === JSON.stringify(other.map((c) => c.name));

// A set that came with the page keeps its name only as long as its classes are asked about.
const collect = () => {
  const classes = [...element.querySelectorAll(".pe-row")].map((row) => {
    const [prompts, absent] = [...row.querySelectorAll("textarea")].map((area) => lines(area.value));
    return { name: row.querySelector("input").value.trim(), prompts, ...(absent ? { absent } : {}) };
  });
  const now = props.value, left = ready(now?.name) && !sameNames(classes, config.sets[ready(now.name)].classes);
  return {
    name: left ? "" : now?.name ?? "",
    description: left ? "" : now?.description ?? "",
    templates: lines(element.querySelector(".pe-templates textarea")?.value ?? ""),
    ...(several(now) ? { kind: now.kind, rules: lines(element.querySelector(".pe-rules textarea")?.value ?? "") } : {}),
    classes,
  };
};

const commit = () => {
  props.value = collect();
  unfit = false;  // until these are read
  nameSet();
  trigger("input");
};

// A text area is as high as its text, up to twelve lines. It changes while somebody types, never because the caret comes
// or goes: a button that moves between the press and the release of the mouse is not clicked.
const grow = (area) => {
  if (!area.clientWidth) return;
  area.style.height = "auto";
  area.style.height = Math.min(area.scrollHeight, 240) + "px";
};

const growAll = () => element.querySelectorAll("textarea").forEach(grow);

const counted = (n) => ["No prompt yet", "1 prompt; more go on new lines"][n] ?? `${n} prompts, one per line`;

// The prompts of the images without a finding.
const absentCell = (entry, index) => {
  const area = make("textarea", {
    id: `${uid}-absent-${index}`, rows: "1", spellcheck: "false", value: (entry.absent ?? []).join("\n"),
    placeholder: `a medical image without ${entry.name}`,
  });
  area.addEventListener("input", () => { grow(area); commit(); });
  const label = make("label", { for: area.id }, [
    "Prompts for absent", make("span", { class: "sr-only", text: ` of finding ${index + 1}` }),
  ]);
  return make("div", { class: "pe-cell pe-absent" }, [label, make("div", { class: "pe-area" }, [area])]);
};

const row = (entry, index) => {
  const number = index + 1, noun = several(props.value) ? "finding" : "class";
  const name = make("input", { type: "text", id: `${uid}-name-${index}`, value: entry.name, autocomplete: "off" });
  const prompts = make("textarea", {
    id: `${uid}-prompts-${index}`, rows: "1", spellcheck: "false", value: entry.prompts.join("\n"),
  });
  const remove = make("button", {
    type: "button", class: "pe-remove", text: "Remove", "aria-label": `Remove ${noun} ${number}`,
  });
  const count = make("span", { text: counted(entry.prompts.length) });
  if (config.fixed) name.readOnly = true;
  name.addEventListener("input", commit);
  prompts.addEventListener("input", () => {
    grow(prompts);
    count.textContent = counted(lines(prompts.value).length);
    commit();
  });
  prompts.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { commit(); trigger("submit"); }
  });
  remove.addEventListener("click", () => {
    const value = collect();
    value.classes.splice(index, 1);
    props.value = value;
    draw();
    trigger("input");
    element.querySelector(".pe-add").focus();
  });
  return make("li", { class: "pe-row" }, [
    make("div", { class: "pe-cell" }, [
      make("div", { class: "pe-head" }, [
        make("label", { for: name.id, text: `${noun[0].toUpperCase()}${noun.slice(1)} ${number}` }), ...(config.fixed ? [] : [remove]),
      ]),
      name,
    ]),
    make("div", { class: "pe-cell" }, [
      make("label", { for: prompts.id }, [
        count, make("span", { class: "sr-only", text: ` for ${noun} ${number}` }),
      ]),
      make("div", { class: "pe-area" }, [prompts]),
    ]),
    ...(several(props.value) ? [absentCell(entry, index)] : []),
  ]);
};

// nearl.prompts.default_prompts calls a set that it made "class names".
const shownName = (name) => (name === "class names" ? "Your class names" : name || "Your own");

// What the first line of the chooser says where the editor does not hold a ready set as it came.
const otherName = () => {
  const { name, classes = [], templates = [] } = props.value ?? {}, key = ready(name);
  if (!key) return shownName(name);
  if (unfit) return "Choose a set that fits the image";
  const set = config.sets[key], content = (s) => JSON.stringify([s.classes, s.templates ?? []]);
  return content({ classes, templates }) === content(set) ? "" : `${config.titles[key]}, edited`;
};

const nameSet = () => {
  const select = element.querySelector(".pe-set select");
  if (!select) return;
  const other = otherName(), first = select.querySelector("[value='']");
  first.textContent = other;
  first.hidden = !other;
  select.value = other ? "" : ready(props.value.name);
  element.querySelector(".pe-set .quiet").textContent = unfit ? "" : props.value?.description ?? "";
};

const chooser = () => {
  const keys = Object.keys(config.sets);
  if (!keys.length) return [];
  const select = make("select", { id: `${uid}-set` }, [make("option", { value: "" })]);
  keys.forEach((key) => select.append(make("option", { value: key, text: title(key) })));
  select.addEventListener("change", () => {
    if (!select.value) return;
    props.value = JSON.parse(JSON.stringify(config.sets[select.value]));
    unfit = false;
    draw();
    trigger("input");
  });
  const about = make("p", { class: "quiet" });
  return [make("div", { class: "pe-set" }, [make("label", { for: select.id, text: "Ready sets" }), select, about])];
};

const templates = (value) => {
  const area = make("textarea", {
    id: `${uid}-templates`, rows: "2", spellcheck: "false", value: (value.templates ?? []).join("\n"),
  });
  area.addEventListener("input", () => { grow(area); commit(); });
  const open = element.querySelector(".pe-templates")?.open;
  const details = make("details", { class: "pe-templates" }, [
    make("summary", { text: "Sentence around each prompt" }),
    make("label", { for: area.id, text: "One per line; {} stands for the prompt. Leave empty to use the prompts as they are." }),
    make("div", { class: "pe-area" }, [area]),
  ]);
  details.open = Boolean(open);
  details.addEventListener("toggle", growAll);
  return details;
};

// Whether an image shows one of the classes, or any number of findings.
const chooseKind = (value) => {
  const select = make("select", { id: `${uid}-kind` }, [
    make("option", { value: "classes", text: "one of these classes" }),
    make("option", { value: "findings", text: "any number of these findings" }),
  ]);
  select.value = several(value) ? "findings" : "classes";
  select.addEventListener("change", () => {
    const { kind, rules, ...next } = collect();
    next.name = "";
    next.classes = next.classes.map(({ name, prompts, absent }) => ({
      name, prompts, ...(select.value === "findings" ? { absent: absent ?? [] } : {}),
    }));
    props.value = select.value === "findings" ? { ...next, kind: "findings", rules: [] } : next;
    draw();
    trigger("input");
    element.querySelector(`#${uid}-kind`).focus();
  });
  return make("div", { class: "pe-kind" }, [make("label", { for: select.id, text: "An image shows" }), select]);
};

const rules = (value) => {
  const area = make("textarea", {
    id: `${uid}-rules`, rows: "2", spellcheck: "false", value: (value.rules ?? []).join("\n"),
    placeholder: "such as: if no finding then not mass\nor: mass is a kind of opacity",
  });
  area.addEventListener("input", () => { grow(area); commit(); });
  const label = make("label", { for: area.id, text: "Which findings exclude or include others, one rule per line" });
  return make("div", { class: "pe-rules" }, [label, make("div", { class: "pe-area" }, [area])]);
};

const draw = () => {
  const value = props.value ?? { classes: [] };
  const add = make("button", { type: "button", class: "pe-add", text: several(value) ? "Add a finding" : "Add a class" });
  add.addEventListener("click", () => {
    const next = collect();
    next.classes.push({ name: "", prompts: [], ...(several(next) ? { absent: [] } : {}) });
    props.value = next;
    draw();
    [...element.querySelectorAll(".pe-row input")].at(-1).focus();
  });
  const body = make("div", { class: "pe" }, [
    ...chooser(),
    ...(config.fixed ? [] : [chooseKind(value)]),
    make("ol", { class: "pe-rows" }, (value.classes ?? []).map(row)),
    ...(several(value) ? [rules(value)] : []),
    make("div", { class: "pe-foot" }, [...(config.fixed ? [] : [add]), templates(value)]),
  ]);
  element.querySelector(".pe-root").replaceChildren(body);
  nameSet();
  growAll();
};

// "fits" tells whether these classes are those of the image on show, as far as the model can say; null where it does
// not know the kind of the image and has read it: then they fit if somebody has chosen or edited them for it.
element.addEventListener("fits", ({ detail }) => {
  if (detail !== null) unfit = !detail;
  nameSet();
});
element.addEventListener("model", draw);  // another one is in use
draw();
watch("value", () => {
  unfit = false;
  draw();
});
new ResizeObserver(growAll).observe(element);
