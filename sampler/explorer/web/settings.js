"use strict";
// The parameters of the draw and the edits: for each a number to type and a slider, a box to tick, or
// a text. What few use is folded away.

const SETTINGS = data.settings.map((setting) => setting.name);
const SLIDERS = data.settings.filter(({ slider }) => slider).map((setting) => setting.name);

const FOLDS = ["more", "edits"];
const FIRST_BIAS = -2; // seen at once, and typed over
const KEYBOARDS = { int: "numeric", float: "decimal", text: "text" };

function makeSetting({ name, label, hint, kind, slider }) {
  const control = make("div", "control");
  const title = make("label", "", `${label} `);
  title.htmlFor = name;
  if (kind === "bool") {
    const box = make("input");
    Object.assign(box, { id: name, type: "checkbox", autocomplete: "off" });
    control.append(title, box);
    return control;
  }
  title.append(make("small", "", hint));
  const field = make("input");
  Object.assign(field, { id: name, inputMode: KEYBOARDS[kind], autocomplete: "off" });
  field.setAttribute("aria-errormessage", "error");
  if (!slider) {
    control.classList.add("long");
    control.append(title, field);
    return control;
  }
  const range = make("input");
  Object.assign(range, { id: `${name}-slider`, type: "range", autocomplete: "off", ...slider });
  range.setAttribute("aria-label", label);
  control.append(title, field, range);
  return control;
}

for (const setting of data.settings) {
  byId(setting.folded ? `${setting.folded}-settings` : "settings").append(makeSetting(setting));
}

// Numbers without the spaces around them, 0 or 1 for a box; a prompt as it is.
function typed(name) {
  const field = byId(name);
  if (field.type === "checkbox") return String(Number(field.checked));
  return name === "prompt" ? field.value : field.value.trim();
}

function fill(name, value) {
  if (byId(name).type === "checkbox") byId(name).checked = value;
  else byId(name).value = value;
}

// Say how many of those that are folded away are on; the folds that hold some.
function paintFolds() {
  const isOn = ({ name, off }) => Number(typed(name)) !== Number(off);
  return FOLDS.filter((fold) => {
    const on = data.settings.filter((setting) => setting.folded === fold && isOn(setting));
    byId(`${fold}-on`).textContent = on.length ? `${on.length} on` : "";
    return on.length;
  });
}

function unfold(fold) {
  byId(fold).open = true;
}

// What is unfolded may lie below the end of the box that scrolls: it begins at the box's top.
for (const fold of FOLDS) {
  byId(`${fold}-name`).addEventListener("click", () => {
    const [box, name] = [byId("parameters"), byId(`${fold}-name`)];
    const top = () => name.getBoundingClientRect().top - box.getBoundingClientRect().top;
    requestAnimationFrame(() => byId(fold).open && box.scrollBy(0, top()));
  });
}

// Give a token a bias to change, or the one that it has.
function biasToken(id) {
  const field = byId("logit_bias");
  unfold("edits");
  const entry = new RegExp(`(?:^|[,\\s])${id}\\s*=`);
  if (!entry.test(field.value)) {
    const others = field.value.replace(/[,\s]+$/, "");
    field.value = `${others}${others && ", "}${id}=${FIRST_BIAS}`;
    field.dispatchEvent(new Event("input"));
  }
  const found = entry.exec(field.value);
  const start = found.index + found[0].length;
  const end = field.value.indexOf(",", start);
  field.focus();
  field.setSelectionRange(start, end < 0 ? field.value.length : end);
}
