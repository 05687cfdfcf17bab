// A text goes to the endpoint: its label, and how probable each of them is.

import { asker, bars, element, percent, timing } from "./asking.js";

const MAX_BARS = 12;

export function startText(root) {
  const part = (name) => root.querySelector(`[data-${name}]`);
  const ask = asker(root, (answer, took, turn) => {
    const { label, labels = [], confidence, probabilities = {}, model, version } = answer;
    const headline = labels.length > 1 ? labels.join(", ") : (label ?? "not sure");
    part("verdict").className = "verdict";
    part("verdict").replaceChildren(element("div", {},
      element("strong", { textContent: headline }),
      element("small", { className: "num", textContent: confidence == null ? "" : `probability ${percent(confidence)}${label == null ? ", too low to say" : ""}` }),
      element("small", { textContent: `${model} v${version}` })));
    const entries = Object.entries(probabilities).sort((a, b) => b[1] - a[1]).slice(0, MAX_BARS);
    part("details").replaceChildren(bars(entries.map(([name, share]) => ({ name, share, chosen: labels.includes(name) }))));
    part("timing").textContent = timing(answer, took);
    part("text").dataset.answer = turn;
  });
  const send = () => ask(part("text").value, "text/plain; charset=utf-8");
  part("ask").addEventListener("click", send);
  part("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send();
  });
  root.addEventListener("click", (event) => {
    const sample = event.target.closest("[data-sample-text]");
    if (!sample) return;
    part("text").value = sample.dataset.sampleText;
    send();
  });
}
