// What was found in an image: classes with probabilities, boxes, or a mask, whichever the answer holds.

import { bars, element, percent } from "./asking.js";
import { svg } from "./ui.js";

/** A colour for a class, far from its neighbours' (golden-ratio steps around the hues), as the server draws. */
function hue(index) {
  return Math.round(360 * ((0.07 + index * 0.618033988749895) % 1));
}
const paintOf = (index, alpha = 1) => `hsl(${hue(index)} 85% 55% / ${alpha})`;

function swatch(index) {
  const mark = svg("svg", { viewBox: "0 0 10 10", class: "swatch-svg", "aria-hidden": "true" });
  mark.append(svg("rect", { width: 10, height: 10, rx: 3, fill: paintOf(index) }));
  return mark;
}

async function readMask({ media_type: type, data_base64: data }) {
  const image = new Image();
  image.src = `data:${type};base64,${data}`;
  await image.decode();
  const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

/** The class numbers of a mask, where shown, as colours. */
function coloured(mask, hidden) {
  const pixels = new ImageData(mask.width, mask.height);
  const palette = Array.from({ length: 256 }, (_, index) => {
    const probe = new OffscreenCanvas(1, 1).getContext("2d");
    probe.fillStyle = paintOf(index);
    probe.fillRect(0, 0, 1, 1);
    return probe.getImageData(0, 0, 1, 1).data;
  });
  for (let i = 0; i < pixels.data.length; i += 4) {
    const label = mask.data[i];
    if (hidden.has(label)) continue;
    pixels.data.set(palette[label], i);
  }
  const layer = new OffscreenCanvas(mask.width, mask.height);
  layer.getContext("2d").putImageData(pixels, 0, 0);
  return layer;
}

export function findingsView(root, redraw) {
  const part = (name) => root.querySelector(`[data-${name}]`);
  const state = { answer: null, mask: null, labels: [] };
  const classOf = (label) => {
    if (!state.labels.includes(label)) state.labels.push(label);
    return state.labels.indexOf(label);
  };
  const shownBoxes = () => state.answer.detections.filter((found) => found.score >= Number(part("score").value));

  function paintBoxes(context) {
    const { width, height } = context.canvas;
    const [scaleX, scaleY] = [width / state.answer.image.width, height / state.answer.image.height];
    const line = Math.max(2, Math.min(width, height) / 200);
    const size = Math.max(12, Math.min(width, height) / 28);
    context.font = `600 ${size}px Inter, sans-serif`;
    context.lineWidth = line;
    for (const { label, score, box } of shownBoxes().toReversed()) {
      const [left, top, right, bottom] = [box[0] * scaleX, box[1] * scaleY, box[2] * scaleX, box[3] * scaleY];
      context.strokeStyle = context.fillStyle = paintOf(classOf(label));
      context.strokeRect(left, top, right - left, bottom - top);
      const text = `${label} ${Math.round(100 * score)} %`;
      const textWidth = context.measureText(text).width + size * 0.6;
      const y = top >= size * 1.4 ? top - size * 1.4 : top;
      context.fillRect(left - line / 2, y, textWidth, size * 1.4);
      context.fillStyle = "#111";
      context.fillText(text, left + size * 0.25, y + size * 1.05);
    }
  }

  function paintMask(context) {
    context.globalAlpha = Number(part("mask-opacity").value);
    context.imageSmoothingEnabled = false;
    context.drawImage(state.layer, 0, 0, context.canvas.width, context.canvas.height);
    context.imageSmoothingEnabled = true;
    context.globalAlpha = 1;
  }

  function showBoxes() {
    const found = shownBoxes();
    const counts = new Map();
    for (const { label } of found) counts.set(label, (counts.get(label) ?? 0) + 1);
    const list = [...counts].sort((a, b) => b[1] - a[1]).map(([label, number]) => element("li", {}, swatch(classOf(label)), ` ${label} `, element("span", { className: "num muted", textContent: String(number) })));
    say(`${found.length} found`, `${state.answer.detections.length - found.length} more below the slider`, element("ul", { className: "counted" }, ...list));
    part("score-out").value = percent(Number(part("score").value));
  }

  function showClasses() {
    const { label, probability, labels, top } = state.answer;
    const several = labels.length > 1 ? labels.join(", ") : label;
    say(labels.length ? several : "none of them", `probability ${percent(probability)}`,
      bars(top.map((entry) => ({ name: entry.label, share: entry.probability, chosen: labels.includes(entry.label) }))));
  }

  function showMask() {
    const { shares, labels } = state.answer;
    const entries = Object.entries(shares).map(([name, share]) => ({ name, share, swatch: swatch(labels.indexOf(name)) }));
    say(entries[0]?.name ?? "nothing", `covers ${percent(entries[0]?.share ?? 0)} of the image`, bars(entries.slice(0, 12)));
  }

  function say(headline, note, details) {
    const { model, version } = state.answer;
    part("verdict").className = "verdict";
    part("verdict").replaceChildren(element("div", {}, element("strong", { textContent: headline }), element("small", { className: "num", textContent: note }), element("small", { textContent: `${model} v${version}` })));
    part("details").replaceChildren(details);
  }

  part("score").addEventListener("input", () => { if (state.answer?.detections) { showBoxes(); redraw(); } });
  part("mask-opacity").addEventListener("input", () => { part("mask-opacity-out").value = percent(Number(part("mask-opacity").value)); redraw(); });

  return {
    query: "",
    read: (answer) => (answer.mask ? readMask(answer.mask) : null),
    show: (answer, mask) => {
      Object.assign(state, { answer, mask });
      part("score-control").hidden = !answer.detections;
      part("mask-control").hidden = !answer.mask;
      if (answer.detections) {
        const scores = answer.detections.map((found) => found.score);
        Object.assign(part("score"), { min: 0, max: 1, step: "any", value: scores.length ? Math.min(...scores) : 0 });
        showBoxes();
      } else if (answer.mask) {
        // The background, where the task names one, stays as it is in the photograph.
        const hidden = new Set(answer.labels.flatMap((label, index) => (label === "background" ? [index] : [])));
        state.layer = coloured(mask, hidden);
        part("mask-opacity-out").value = percent(Number(part("mask-opacity").value));
        showMask();
      } else if (answer.top) showClasses();
      else say("answered", "as JSON", element("pre", { className: "code-block", textContent: JSON.stringify(answer, null, 2) }));
    },
    paint: (context) => {
      if (state.answer.detections) paintBoxes(context);
      else if (state.answer.mask) paintMask(context);
    },
  };
}
