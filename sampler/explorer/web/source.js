"use strict";
// The page's data, and where its views come from: the server, or the page itself where it is saved.

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);

class ViewError extends Error {
  constructor(message, field = null) {
    super(message);
    this.field = field; // the input to mend
  }
}

async function servedView(state) {
  let response, answer;
  try {
    response = await fetch("view", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(state),
    });
    answer = await response.json();
  } catch {
    throw new ViewError(
      "the server does not answer; run fused-sampler explore again and open the address it prints",
    );
  }
  if (!response.ok) throw new ViewError(answer.error, answer.field);
  return answer;
}

// One of the views that came with the page.
async function savedView(state) {
  return data.views.find((view) => view.table.sampling.temperature === Number(state.temperature));
}

const loadView = data.saved ? savedView : servedView;
