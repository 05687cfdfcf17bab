// An anomaly detector's answer: verdict, heat map, and the score among those of the test images.

import { embedded, percent } from "./asking.js";
import { svg } from "./ui.js";

// The gateway's PNG says how hot a pixel is by its alpha; this is the alpha of the hottest.
const HOTTEST_ALPHA = 255 * 0.85;

/** The heat map's pixels (RGBA) and size. */
async function readMap(heatmap) {
  const image = new Image();
  image.src = `data:${heatmap.media_type};base64,${heatmap.data_base64}`;
  await image.decode();
  const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

export function anomalyView(root, redraw) {
  const part = (name) => root.querySelector(`[data-${name}]`);
  const report = embedded(part("report"));
  const state = { map: null, answer: null };

  function paint(context) {
    if (!state.map) return;
    const { map } = state;
    const cut = Number(part("cut").value);
    const layer = new OffscreenCanvas(map.width, map.height);
    const pixels = new ImageData(new Uint8ClampedArray(map.data), map.width, map.height);
    for (let i = 3; i < pixels.data.length; i += 4) {
      const heat = Math.min(1, pixels.data[i] / HOTTEST_ALPHA);
      // Fades in above the cut, so that the map has no hard edge.
      pixels.data[i] = 255 * Math.min(1, Math.max(0, (heat - cut) / 0.2));
    }
    layer.getContext("2d").putImageData(pixels, 0, 0);
    context.globalAlpha = Number(part("opacity").value);
    context.imageSmoothingQuality = "high";
    context.drawImage(layer, 0, 0, context.canvas.width, context.canvas.height);
    context.globalAlpha = 1;
  }

  function range() {
    const edges = report.histogram?.edges;
    const values = [...(edges ? [edges[0], edges[edges.length - 1]] : []), state.answer?.score, state.answer && state.answer.threshold * 1.5].filter((value) => value != null);
    return values.length ? [Math.min(0, ...values), Math.max(...values)] : [0, 1];
  }

  function drawStrip() {
    const [low, high] = range();
    const x = (value) => (400 * (value - low)) / (high - low || 1);
    const parts = [];
    const { edges, ok, defective } = report.histogram ?? {};
    if (edges) {
      const tallest = Math.max(...ok.map((number, i) => number + defective[i]), 1);
      ok.forEach((number, i) => {
        const box = { x: x(edges[i]) + 0.4, width: Math.max(0.5, x(edges[i + 1]) - x(edges[i]) - 0.8) };
        const [first, second] = [(74 * number) / tallest, (74 * defective[i]) / tallest];
        parts.push(svg("rect", { ...box, y: 80 - first, height: first, class: "ok" }), svg("rect", { ...box, y: 80 - first - second, height: second, class: "defective" }));
      });
    }
    parts.push(svg("line", { x1: 0, x2: 400, y1: 80, y2: 80, class: "axis" }));
    const threshold = Number(part("threshold").value);
    parts.push(svg("line", { x1: x(threshold), x2: x(threshold), y1: 0, y2: 84, class: "threshold" }));
    if (state.answer) {
      const at = x(state.answer.score);
      parts.push(svg("path", { d: `M${at - 6} 99 L${at} 84 L${at + 6} 99 Z`, class: "marker" }));
    }
    part("strip").replaceChildren(...parts);
  }

  /** What the threshold would have done to the test images. */
  function tradeoff(threshold) {
    const share = (scores) => (scores.length ? scores.filter((score) => score >= threshold).length / scores.length : null);
    const [alarms, found] = [share(report.scores?.ok ?? []), share(report.scores?.defective ?? [])];
    const said = [];
    if (alarms != null) said.push(`${percent(alarms)} false alarms`);
    if (found != null) said.push(`${percent(1 - found)} of the defects missed`);
    return said.length ? `On the test images: ${said.join(", ")}.` : "";
  }

  function showThreshold() {
    const threshold = Number(part("threshold").value);
    part("threshold-out").value = threshold.toFixed(3);
    part("tradeoff").textContent = tradeoff(threshold);
    if (state.answer) showVerdict(threshold);
    drawStrip();
  }

  function showVerdict(threshold) {
    const { score, model, version, confidence } = state.answer;
    const defective = score >= threshold;
    const box = part("verdict");
    box.className = `verdict ${defective ? "is-defective" : "is-ok"}`;
    const mark = svg("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" });
    mark.append(svg("path", { d: defective ? "M12 4 2.8 19.5h18.4zM12 10v4.500m0 2.200v.1" : "m5 12.500 4.500 4.500L19 7.500" }));
    const moved = Math.abs(threshold - state.answer.threshold) > 0.0006;
    const text = document.createElement("div");
    text.append(
      Object.assign(document.createElement("strong"), { textContent: defective ? "defective" : "ok" }),
      Object.assign(document.createElement("small"), { className: "num", textContent: `score ${score.toFixed(3)}, threshold ${threshold.toFixed(3)}${moved ? " (moved by you)" : `, confidence ${percent(confidence)}`}` }),
      Object.assign(document.createElement("small"), { textContent: `${model} v${version}` }),
    );
    box.replaceChildren(mark, text);
  }

  function setThreshold(value) {
    const [low, high] = range();
    Object.assign(part("threshold"), { min: low, max: high, step: "any", value });
    showThreshold();
  }

  part("threshold").addEventListener("input", showThreshold);
  for (const name of ["opacity", "cut"]) {
    const show = () => { part(`${name}-out`).value = `${Math.round(100 * part(name).value)} %`; redraw(); };
    part(name).addEventListener("input", show);
    part(`${name}-out`).value = `${Math.round(100 * part(name).value)} %`;
  }
  setThreshold(report.threshold ?? 0.5);

  return {
    query: "?heatmap=png",
    read: (answer) => (answer.heatmap ? readMap(answer.heatmap) : null),
    show: (answer, map) => {
      Object.assign(state, { answer, map });
      setThreshold(answer.threshold);
    },
    paint,
  };
}
