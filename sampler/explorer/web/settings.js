"use strict";
// The parameters of the draw: for each a number to type and a slider, or a box to tick. What few use
// is folded away.

const SETTINGS = data.settings.map((setting) => setting.name);
const SLIDERS = data.settings.filter(({ slider }) => slider).map((setting) => setting.name);

function makeSetting({ name, label, hint, whole, slider }) {
  const control = make("div", "control");
  const title = make("label", "", `${label} `);
  title.htmlFor = name;
  if (!slider) {
    const box = make("input");
    Object.assign(box, { id: name, type: "checkbox", autocomplete: "off" });
    control.append(title, box);
    return control;
  }
  title.append(make("small", "", hint));
  const number = make("input");
  Object.assign(number, { id: name, inputMode: whole ? "numeric" : "decimal", autocomplete: "off" });
  const range = make("input");
  Object.assign(range, { id: `${name}-slider`, type: "range", autocomplete: "off", ...slider });
  range.setAttribute("aria-label", `${label} slider`);
  control.append(title, number, range);
  return control;
}

for (const setting of data.settings) {
  byId(setting.more ? "more-settings" : "settings").append(makeSetting(setting));
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

// How many of those that are folded away are on.
function paintMore() {
  const isOn = ({ name, off }) => Number(typed(name)) !== Number(off);
  const on = data.settings.filter((setting) => setting.more && isOn(setting));
  byId("more-on").textContent = on.length ? `${on.length} on` : "";
  return on.length;
}

function unfold() {
  byId("more").open = true;
}
