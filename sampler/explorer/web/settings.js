"use strict";
// The parameters of the draw: for each a number to type, and a slider.

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

byId("settings").append(...data.settings.map(makeSetting));
