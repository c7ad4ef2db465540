"use strict";
// Inputs, buttons and keys. One view is asked for at a time, so none is painted out of order.

const FIELDS = ["prompt", ...SETTINGS, "seed"];
const KEYS = { d: "draw", t: "count", l: "look", a: "append", u: "undo" };
const SEEDS = 2n ** 63n; // how many there are

let view = null; // as painted
let viewTokens = []; // that were appended before it
let dirty = false; // it answers older inputs
let failed = false; // the inputs have no view
let counting = data.saved;
let waiting = 0;
let queue = Promise.resolve();

// Do `step` after everything before it.
function enqueue(step) {
  waiting += 1;
  byId("main").setAttribute("aria-busy", "true");
  queue = queue.then(step).catch(fail).then(() => {
    waiting -= 1;
    byId("main").setAttribute("aria-busy", String(waiting > 0));
  });
}

function changed() {
  dirty = true;
  paintFolds();
  enqueue(load);
}

async function load() {
  if (!dirty) return; // an earlier load has read these inputs
  dirty = false;
  const tokens = [...appended]; // a new prompt may empty the list before the answer comes
  show(await loadView(stateAfter(tokens, counting)), tokens);
}

// What the view of the token after `tokens` depends on.
function stateAfter(tokens, count) {
  const fields = Object.fromEntries(FIELDS.map((name) => [name, typed(name)]));
  return { ...fields, appended: tokens.map((token) => token.id), count };
}

// Add one draw to those ahead, and go on as long as nothing changes.
async function lookAhead() {
  const { ahead } = view;
  if (!looking || dirty || failed || isWhole(ahead)) return;
  const next = await loadView(stateAfter([...viewTokens, ...ahead], false));
  ahead.push(...next.ahead);
  paintAhead(view);
  enqueue(lookAhead);
}

function show(next, tokens) {
  view = next;
  viewTokens = tokens;
  fail(null);
  paintTable(view);
  paintBar(view);
  paintDraw(view);
  paintAhead(view);
  paintText(view, tokens);
  if (looking) enqueue(lookAhead);
}

// Say what is wrong; null: nothing any more.
function fail(error) {
  if (error && !(error instanceof ViewError)) console.error(error);
  failed = error !== null;
  byId("error").textContent = failed ? error.message.replace(/\.?$/, ".") : "";
  byId("main").classList.toggle("stale", failed);
  for (const name of FIELDS) {
    const wrong = failed && error.field === name;
    byId(name).setAttribute("aria-invalid", String(wrong));
    if (wrong) FOLDS.filter((fold) => byId(fold).contains(byId(name))).forEach(unfold);
  }
}

// Change the text or the seed, by what the view of all earlier inputs says.
function changeAfter(change) {
  enqueue(() => {
    change();
    dirty = true;
  });
  enqueue(load);
}

function takeBack(length) {
  changeAfter(() => appended.splice(length));
  byId("append").focus();
}

const actions = {
  draw() {
    changeAfter(() => {
      const seed = typed("seed");
      if (failed || !/^\d+$/.test(seed)) return;
      byId("seed").value = String((BigInt(seed) + 1n) % SEEDS);
    });
  },
  count() {
    counting = !counting;
    byId("count").setAttribute("aria-pressed", String(counting));
    changed();
  },
  look() {
    looking = !looking;
    byId("look").setAttribute("aria-pressed", String(looking));
    enqueue(() => paintAhead(view));
    enqueue(lookAhead);
  },
  append() {
    changeAfter(() => {
      if (!failed) appended.push({ id: view.table.drawn_id, view });
    });
  },
  undo() {
    changeAfter(() => appended.pop());
  },
};

function appendAhead(count) {
  for (let i = 0; i < count; i += 1) actions.append();
}

function fillInputs() {
  for (const name of FIELDS) fill(name, data.request[name]);
  for (const name of SLIDERS) byId(`${name}-slider`).value = data.request[name];
  paintFolds().forEach(unfold);
  const { model, chat, system } = data.views[0].table;
  const message = system === null ? "" : `, after the system message “${system}”`;
  byId("model").textContent = chat ? `${model}, in a chat${message}` : model;
  byId("count-name").textContent = `Draw ${data.samples}`;
  byId("ahead-title").textContent =
    `The next ${data.ahead} draws of this seed, each after the tokens before it` +
    (data.saved ? ":" : "; press one to append up to there:");
  byId("draws-name").textContent = `${integer.format(data.samples)} draws`;
}

function listen() {
  for (const name of FIELDS) {
    byId(name).addEventListener("input", () => {
      if (name === "prompt") appended.length = 0;
      const value = parseFloat(byId(name).value); // without a number, the slider stays
      if (SLIDERS.includes(name) && !isNaN(value)) byId(`${name}-slider`).value = value;
      changed();
    });
  }
  for (const name of SLIDERS) {
    byId(`${name}-slider`).addEventListener("input", (event) => {
      byId(name).value = event.target.value;
      changed();
    });
  }
  for (const [name, action] of Object.entries(actions)) byId(name).addEventListener("click", action);
  byId("close").addEventListener("click", hideAlternatives);
  byId("text").addEventListener("keydown", moveAlong);
  byId("keys").addEventListener("input", () => {
    byId("main").classList.toggle("without-keys", !byId("keys").checked);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hideAlternatives();
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (!byId("keys").checked) return;
    if (event.target.matches("textarea, input:not([type=range])")) return;
    const button = byId(KEYS[event.key.toLowerCase()] ?? "");
    if (button && !button.hidden) button.click();
  });
}

// A saved page has no library behind it: it goes through the temperatures that were computed.
function limitToSaved() {
  for (const name of FIELDS) {
    byId(name).readOnly = true;
    byId(name).disabled = byId(name).type === "checkbox"; // which is never read only
  }
  for (const name of SLIDERS) byId(`${name}-slider`).disabled = name !== "temperature";
  for (const name of [...Object.keys(actions), "keys-name"]) byId(name).hidden = true;
  const slider = byId("temperature-slider");
  const temperatures = data.views.map((view) => view.table.sampling.temperature);
  const describe = () => slider.setAttribute("aria-valuetext", byId("temperature").value);
  Object.assign(slider, { min: 0, max: temperatures.length - 1, step: 1 });
  slider.value = temperatures.indexOf(Number(data.request.temperature));
  describe();
  slider.addEventListener("input", () => {
    byId("temperature").value = temperatures[slider.value];
    describe();
    changed();
  });
  byId("saved-note").hidden = false;
  byId("saved-note").textContent =
    `A saved page: fused-sampler ${data.version} computed it beforehand for ` +
    `${temperatures.length} temperatures, one prompt, one seed and these filters. ` +
    "Run fused-sampler explore to move everything.";
}

fillInputs();
if (data.saved) limitToSaved();
else listen();
enqueue(async () => show(await savedView(data.request), []));
