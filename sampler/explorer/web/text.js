"use strict";
// The text as it grows: each appended token is a button that shows what else it could have been.

const LISTED = 8; // alternatives

const appended = []; // {id, view}: a token, and the view that it was drawn from
let shownText = "";

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
      for (const kind of ["focus", "click"]) { // a click does not focus in every browser
        button.addEventListener(kind, () => showAlternatives(tokens[i], i));
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

function showAlternatives(token, i) {
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
  byId("alternatives").hidden = true;
}
