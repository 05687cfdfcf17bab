// Draws every chart of a page that a report or a data check describes, now and when one is swapped in.

import { draw } from "./charts.js";

function drawAll() {
  for (const element of document.querySelectorAll("[data-figure]:not([data-drawn])")) {
    element.dataset.drawn = "";
    draw(element, JSON.parse(element.querySelector("script").textContent));
  }
}

drawAll();
new MutationObserver(drawAll).observe(document.body, { childList: true, subtree: true });
