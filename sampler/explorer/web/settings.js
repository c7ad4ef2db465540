"use strict";
// The parameters of the draw: for each a number to type, and a slider. What few use is folded away.

const SLIDERS = data.settings.map((setting) => setting.name);

function makeSetting({ name, label, hint, whole, slider }) {
  const control = make("div", "control");
  const title = make("label", "", `${label} `);
  title.htmlFor = name;
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

// How many of those that are folded away are on.
function paintMore() {
  const on = data.settings.filter(({ name, more, off }) => more && Number(byId(name).value) !== off);
  byId("more-on").textContent = on.length ? `${on.length} on` : "";
  return on.length;
}

function unfold() {
  byId("more").open = true;
}
