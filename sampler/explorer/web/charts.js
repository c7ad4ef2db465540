"use strict";
// The table with its bars, and the cumulative bar. All numbers are the view's; here they get places.

const integer = new Intl.NumberFormat("en");
const percent = (part) => `${Math.max(0, Math.min(1, part)) * 100}%`;

// Not longer than its column is wide, however low the temperature.
function fixed(value, digits) {
  if (value === null) return "–";
  const size = Math.abs(value);
  return size < 1e4 ? value.toFixed(digits) : size < 1e6 ? value.toFixed(0) : value.toExponential(1);
}

function share(value) {
  return value >= 0.001 || value === 0 ? value.toFixed(4) : value.toExponential(1);
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// A cell: a number and its bar. Rows are made once and then change, so that bars glide.
function makeCell(row) {
  const cell = make("div", "cell");
  const parts = { number: make("span", "number"), fill: make("i"), before: make("em") };
  parts.before.hidden = true;
  const bar = make("span", "bar");
  bar.append(parts.fill, parts.before);
  const told = make("span", "unseen"); // what the outline or the colour says
  cell.append(parts.number, bar, told);
  const td = make("td");
  td.append(cell);
  row.append(td);
  return { ...parts, bar, told };
}

function makeRow() {
  const element = make("tr");
  const rank = make("td", "rank");
  const token = make("th", "token");
  token.scope = "row";
  const name = make("button");
  name.type = "button";
  name.disabled = data.saved;
  name.addEventListener("click", () => biasToken(name.value));
  token.append(name);
  element.append(rank, token);
  const [logit, scaled, probability, draws] = [0, 1, 2, 3].map(() => makeCell(element));
  const expected = make("b");
  draws.bar.append(expected);
  byId("rows").append(element);
  return { element, rank, name, logit, scaled, probability, draws, expected };
}

const tableRows = [];

function setCell(cell, text, part) {
  cell.number.textContent = text;
  cell.fill.style.width = percent(part);
}

// The same without the edits, around the bar; null: they did not move it.
function setBefore(cell, text, part) {
  cell.before.hidden = text === null;
  cell.before.style.width = percent(part);
  cell.told.textContent = text === null ? "" : ` before penalties and bias: ${text}`;
}

// The shortest axis that holds every value; few lengths, so that it seldom changes.
const AXES = [1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002, 0.0001];
const axisEnd = (largest) => AXES.findLast((end) => end >= largest) ?? 1;

function paintTable(view) {
  const rows = view.rows;
  // One more for the drawn token, and some for what the edits moved away.
  while (tableRows.length <= Math.max(data.top, rows.length - 1)) tableRows.push(makeRow());
  const finite = rows.filter((row) => row.logit !== null);
  const best = finite[0];
  // One axis for both charts of logits, from the worst token up to the best: what counts is how far
  // below the best a token is. It stays where it is while the temperature moves.
  const width = Math.max(1, (best.logit - finite[Math.min(data.top, finite.length) - 1].logit) * 1.05);
  const shares = rows.map((row) => Math.max(row.probability, row.probability_before));
  const probabilityEnd = axisEnd(view.table.edited ? Math.max(...shares) : best.probability);
  const samples = data.samples;
  const draws = rows.map((row) => Math.max(row.end - row.start, (row.observed ?? 0) / samples));
  const drawsEnd = axisEnd(Math.max(...draws));

  tableRows.forEach((parts, i) => {
    const row = rows[i];
    parts.element.className = !row ? "empty" : row.drawn ? "drawn" : row.kept ? "kept" : "dropped";
    if (!row) return;
    parts.element.classList.toggle("apart", row.rank > (rows[i - 1]?.rank ?? 0) + 1);
    const chance = row.end - row.start;
    parts.rank.textContent = integer.format(row.rank);
    parts.name.textContent = row.label;
    parts.name.value = row.id;
    parts.name.title = `${row.label}, id ${row.id}${data.saved ? "" : ": give a bias"}`;
    const moved = row.logit !== row.logit_before;
    const told = (value) => (moved ? value : null);
    const place = (logit) => (logit === null ? 0 : 1 - (best.logit - logit) / width);
    setCell(parts.logit, fixed(row.logit, 2), place(row.logit));
    setBefore(parts.logit, told(fixed(row.logit_before, 2)), place(row.logit_before));
    const below = (best.scaled_logit - row.scaled_logit) / width;
    setCell(parts.scaled, fixed(row.scaled_logit, 2), row.scaled_logit === null ? 0 : 1 - below);
    setCell(parts.probability, share(row.probability), row.probability / probabilityEnd);
    const before = row.probability_before;
    setBefore(parts.probability, told(share(before)), before / probabilityEnd);
    const counted = row.observed === null ? "–" : row.observed;
    setCell(
      parts.draws,
      row.kept ? `${counted} / ${fixed(chance * samples, 1)}` : `cut: ${row.dropped_by}`,
      (row.observed ?? 0) / samples / drawsEnd,
    );
    parts.draws.told.textContent = row.drawn ? " drawn" : "";
    parts.expected.hidden = !row.kept;
    parts.expected.style.left = percent(chance / drawsEnd);
  });
  byId("axis-logit").textContent = `best − ${fixed(width, 1)} to best`;
  byId("axis-scaled").textContent = "the same axis";
  byId("axis-probability").textContent = `0 to ${probabilityEnd}`;
  byId("moved").hidden = !view.table.edited;
  const { tokens, chance, observed } = view.others;
  byId("others").textContent = `${integer.format(tokens)} other kept tokens`;
  byId("others-draws").textContent = `${observed ?? "–"} / ${fixed(chance * samples, 1)}`;
}

function paintBar(view) {
  const kept = view.rows.filter((row) => row.kept).sort((a, b) => a.start - b.start);
  const segments = kept.map((row) => {
    const segment = make("div", row.drawn ? "segment drawn" : "segment");
    segment.style.left = percent(row.start);
    segment.style.width = percent(row.end - row.start);
    segment.title = `${row.label}: ${row.start.toFixed(4)} to ${row.end.toFixed(4)}`;
    if (row.end - row.start > 0.05) segment.append(make("span", "", row.label));
    return segment;
  });
  byId("track").replaceChildren(...segments);
  const mark = byId("mark");
  mark.hidden = !view.draw;
  if (!view.draw) return;
  mark.style.left = percent(view.draw.u);
  mark.className = view.draw.u > 0.5 ? "to-the-left" : "";
  byId("mark-name").textContent = `U = ${view.draw.u.toFixed(4)}`;
}

function paintDraw(view) {
  const { table, draw } = view;
  const drawn = view.rows.find((row) => row.drawn);
  byId("kept").textContent =
    `${integer.format(table.kept)} of ${integer.format(table.vocabulary)} tokens kept, ` +
    `${(table.kept_probability * 100).toFixed(2)}% of the probability`;
  byId("notes").replaceChildren(...table.notes.map((note) => make("p", "", `${note}.`)));
  byId("drawn").textContent = draw
    ? `U falls between ${drawn.start.toFixed(6)} and ${drawn.end.toFixed(6)}: ${drawn.label} is drawn.`
    : `Greedy: ${drawn.label}, the best token, whatever the seed.`;
  byId("bar").setAttribute("aria-label", `Cumulative bar. ${byId("drawn").textContent}`);
  byId("call").textContent = view.call;
  byId("integers").textContent = draw
    ? `r = ⌊U × mass / 2⁶⁴⌋ = ${draw.r} of ${draw.mass}; ${drawn.label} is drawn from ` +
      `${draw.first} to ${draw.last}.`
    : "Greedy draws nothing.";
}
