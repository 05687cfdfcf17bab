// A series goes to the endpoint: how it goes on, drawn after its past with the interval around it.

import { asker, element, timing } from "./asking.js";
import { draw } from "./charts.js";

const SHOWN_PAST = 200;

/** Numbers out of what was pasted: separated by anything that is no number; words such as NaN are gaps. */
export function numbersOf(text) {
  return text.split(/[\s,;]+/).filter(Boolean).map((word) => {
    const value = Number(word);
    return word !== "" && Number.isFinite(value) ? value : null;
  });
}

const round = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3));

export function startSeries(root) {
  const part = (name) => root.querySelector(`[data-${name}]`);
  const ask = asker(root, (answer, took, turn, history) => {
    const quantiles = new Map(Object.entries(answer.quantiles).map(([name, values]) => [Number(name), values]));
    const levels = [...quantiles.keys()].sort((a, b) => a - b);
    const of = (level) => quantiles.get(level);
    const middle = levels.reduce((best, level) => (Math.abs(level - 0.5) < Math.abs(best - 0.5) ? level : best));
    const past = history.slice(-SHOWN_PAST);
    const gap = (number) => Array(number).fill(null);
    // From the last value on, so that the eye follows.
    const joined = (values) => [...gap(past.length - 1), past[past.length - 1], ...values];
    const series = [{ name: "past", swatch: 2, y: [...past, ...gap(answer.horizon)] }];
    const forecast = { name: "forecast", swatch: 4, y: joined(of(middle)) };
    if (levels.length > 1) Object.assign(forecast, { low: joined(of(levels[0])), high: joined(of(levels[levels.length - 1])) });
    series.push(forecast);
    const x = [...past.keys()].map((i) => i - past.length + 1).concat([...Array(answer.horizon).keys()].map((i) => i + 1));
    const chart = element("div", { className: "chart" });
    part("chart").replaceChildren(chart);
    draw(chart, { kind: "lines", x, series, x_title: "Steps from now", y_title: "Value", marks: [{ x: 0, name: "now" }] });
    const first = `next: ${round(of(middle)[0])}`;
    const width = levels.length > 1 ? `${Math.round(100 * (levels[levels.length - 1] - levels[0]))} % between ${round(of(levels[0])[0])} and ${round(of(levels[levels.length - 1])[0])}` : "";
    part("verdict").className = "verdict";
    part("verdict").replaceChildren(element("div", {},
      element("strong", { textContent: first }),
      element("small", { className: "num", textContent: [width, `${answer.horizon} steps forecast`].filter(Boolean).join(", ") }),
      element("small", { textContent: `${answer.model} v${answer.version}` })));
    part("timing").textContent = timing(answer, took);
    part("text").dataset.answer = turn;
  });
  const send = () => {
    const history = numbersOf(part("text").value);
    ask(JSON.stringify({ history }), "application/json", history);
  };
  part("ask").addEventListener("click", send);
  root.addEventListener("click", (event) => {
    const sample = event.target.closest("[data-sample-text]");
    if (!sample) return;
    part("text").value = sample.dataset.sampleText;
    send();
  });
}
