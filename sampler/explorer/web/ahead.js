"use strict";
// The draws ahead: what the seed gives at the next steps, a card each. A served page asks for one
// after the other, so that an input never waits for more than one; a saved page holds them all.

let looking = data.saved;
const cards = [];

function makeCard(place) {
  const card = make("button", "card");
  card.type = "button";
  card.disabled = true;
  card.addEventListener("click", () => appendAhead(place + 1));
  const parts = { card, label: make("span", "label"), fill: make("i"), mark: make("b") };
  const bar = make("span", "part");
  bar.append(parts.fill, parts.mark);
  parts.told = make("small");
  card.append(parts.label, bar, parts.told);
  const item = make("li");
  item.append(card);
  byId("ahead-list").append(item);
  return parts;
}

for (let place = 0; place < data.ahead; place += 1) cards.push(makeCard(place));

// Not all draws may be there yet: the cards of the others keep their places.
function paintAhead({ ahead }) {
  byId("ahead").hidden = !looking;
  if (!looking) return;
  cards.forEach(({ card, label, fill, mark, told }, place) => {
    const draw = ahead[place];
    card.classList.toggle("empty", !draw);
    card.disabled = data.saved || !draw;
    if (!draw) return;
    label.textContent = draw.label;
    fill.style.left = percent(draw.start);
    fill.style.width = percent(draw.end - draw.start);
    mark.hidden = draw.u === null;
    mark.style.left = percent(draw.u ?? 0);
    const chance = `${share(draw.end - draw.start)}, ${integer.format(draw.kept)} kept`;
    told.textContent = draw.last ? `${chance}; ${draw.last}` : chance;
    const u = draw.u === null ? "nothing left to chance" : `U = ${draw.u.toFixed(4)}`;
    card.title = `Step ${draw.step}, ${u}${data.saved ? "" : ": append up to here"}`;
  });
  const labels = ahead.map((draw) => draw.label).join(" ");
  byId("ahead-told").textContent = isWhole(ahead) ? `Ahead: ${labels} ${ahead.at(-1).last}` : "";
}

// Whether nothing is left to look for.
function isWhole(ahead) {
  return ahead.length === data.ahead || ahead.at(-1).last !== "";
}
