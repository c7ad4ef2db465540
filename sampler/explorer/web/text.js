"use strict";
// The text as it grows: each appended token is a button that shows what else it could have been.

const LISTED = 8; // alternatives

const appended = []; // {id, view}: a token, and the view that it was drawn from
let shownText = "";
let shownToken = null; // the button whose alternatives are shown

function paintText(view, tokens) {
  const drawn = view.rows.find((row) => row.drawn);
  const key = JSON.stringify([view.table.prompt, tokens.map((token) => token.id), view.pieces]);
  if (key !== shownText) {
    shownText = key;
    hideAlternatives();
    const whole = view.pieces.findLastIndex((piece) => piece !== ""); // after it, half characters
    const buttons = view.pieces.map((piece, i) => {
      const label = tokens[i].view.rows.find((row) => row.drawn).label;
      const button = make("button", "token", i > whole ? label : piece);
      button.type = "button";
      button.title = `${label}: show its alternatives`;
      button.tabIndex = i + 1 < view.pieces.length ? -1 : 0; // one stop for the tab key
      for (const kind of ["focus", "click"]) { // a click does not focus in every browser
        button.addEventListener(kind, () => showAlternatives(button, tokens[i], i));
      }
      return button;
    });
    const prompt = view.table.prompt + (view.table.chat ? "\n" : ""); // an answer begins a line
    const next = make("span", "next");
    next.id = "next";
    byId("text").replaceChildren(make("span", "", prompt), ...buttons, next);
    byId("text").scrollTop = byId("text").scrollHeight; // where it grows
  }
  byId("next").textContent = drawn.token.includes("\ufffd") ? drawn.label : drawn.token;
  byId("next").title = `${drawn.label}: the next token, not appended yet`;
}

// The arrow keys go from token to token, so that the tab key goes from each to its alternatives.
function moveAlong(event) {
  const buttons = [...byId("text").querySelectorAll(".token")];
  const place = buttons.indexOf(event.target);
  const places = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: buttons.length - 1 };
  const next = place < 0 ? undefined : buttons[places[event.key]];
  if (!next) return;
  event.preventDefault(); // it would scroll
  next.focus();
}

function showAlternatives(button, token, i) {
  for (const other of byId("text").querySelectorAll(".token")) other.tabIndex = -1;
  button.tabIndex = 0;
  shownToken = button;
  const { rows, table } = token.view;
  const items = rows.filter((row, place) => place < LISTED || row.drawn).map((row) => {
    const item = make("li", row.drawn ? "drawn" : row.kept ? "" : "dropped");
    item.append(make("span", "label", row.label), make("span", "number", share(row.probability)));
    item.append(make("small", "", row.drawn ? "drawn" : row.kept ? "" : `cut: ${row.dropped_by}`));
    return item;
  });
  byId("alternatives-title").textContent =
    `New token ${i + 1}, temperature ${table.sampling.temperature}, ${integer.format(table.kept)} kept:`;
  byId("alternatives-list").replaceChildren(...items);
  byId("back").onclick = () => takeBack(i);
  byId("alternatives").hidden = false;
}

function hideAlternatives() {
  // The focus goes back to where it came from, and what it shows there is hidden after that.
  if (byId("alternatives").contains(document.activeElement)) shownToken.focus();
  byId("alternatives").hidden = true;
}
