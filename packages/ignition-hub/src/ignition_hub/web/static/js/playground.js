// The playground: an image goes to the endpoint; verdict, score among the test images, heat map.

import { Problem, showProblem, svg } from "./ui.js";

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

/** False alarms and misses at a threshold, read off the ROC curve of the test images. */
function tradeoff(roc, threshold) {
  const at = roc.thresholds.findIndex((value) => value != null && value < threshold);
  const index = at < 0 ? roc.thresholds.length - 1 : Math.max(0, at - 1);
  return { falseAlarms: roc.fpr[index], missed: 1 - roc.tpr[index] };
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

export function startPlayground(root) {
  const part = (name) => root.querySelector(`[data-${name}]`);
  const report = JSON.parse(part("report").textContent || "{}");
  const canvas = part("canvas");
  const state = { bitmap: null, map: null, answer: null, turn: 0 };

  // ------------------------------------------------------------------------------------ drawing

  function draw() {
    if (!state.bitmap) return;
    const { width, height } = state.bitmap;
    [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d");
    context.drawImage(state.bitmap, 0, 0);
    if (!state.map) return;
    const { map } = state;
    const cut = Number(part("cut").value);
    const layer = new OffscreenCanvas(map.width, map.height);
    const paint = layer.getContext("2d");
    const pixels = new ImageData(new Uint8ClampedArray(map.data), map.width, map.height);
    for (let i = 3; i < pixels.data.length; i += 4) {
      const heat = Math.min(1, pixels.data[i] / HOTTEST_ALPHA);
      // Fades in above the cut, so that the map has no hard edge.
      pixels.data[i] = 255 * Math.min(1, Math.max(0, (heat - cut) / 0.2));
    }
    paint.putImageData(pixels, 0, 0);
    context.globalAlpha = Number(part("opacity").value);
    context.imageSmoothingQuality = "high";
    context.drawImage(layer, 0, 0, width, height);
    context.globalAlpha = 1;
  }

  function range() {
    const edges = report.histogram?.edges;
    const values = [...(edges ? [edges[0], edges[edges.length - 1]] : []), state.answer?.score, state.answer && state.answer.threshold * 1.5].filter((value) => value != null);
    return values.length ? [Math.min(0, ...values), Math.max(...values)] : [0, 1];
  }

  function drawStrip() {
    const strip = part("strip");
    const [low, high] = range();
    const x = (value) => (400 * (value - low)) / (high - low || 1);
    const parts = [];
    const bars = report.histogram;
    if (bars) {
      const tallest = Math.max(...bars.ok.map((number, i) => number + bars.defective[i]), 1);
      bars.ok.forEach((number, i) => {
        const box = { x: x(bars.edges[i]) + 0.4, width: Math.max(0.5, x(bars.edges[i + 1]) - x(bars.edges[i]) - 0.8) };
        const [first, second] = [(74 * number) / tallest, (74 * bars.defective[i]) / tallest];
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
    strip.replaceChildren(...parts);
  }

  function showThreshold() {
    const threshold = Number(part("threshold").value);
    part("threshold-out").value = threshold.toFixed(3);
    if (report.roc?.thresholds) {
      const { falseAlarms, missed } = tradeoff(report.roc, threshold);
      part("tradeoff").textContent = `On the test images: ${percent(falseAlarms)} false alarms, ${percent(missed)} of the defects missed.`;
    }
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

  // -------------------------------------------------------------------------------------- asking

  async function ask(blob) {
    const turn = (state.turn += 1);
    part("busy").hidden = false;
    part("problem").hidden = true;
    try {
      const bitmap = await createImageBitmap(blob).catch(() => null);
      const started = performance.now();
      const response = await fetch(`/v1/endpoints/${root.dataset.endpoint}/predict?heatmap=png`, { method: "POST", body: blob, headers: { "Content-Type": "application/octet-stream" } });
      const body = await response.json().catch(() => ({}));
      if (!response.ok) throw new Problem(response.status, body);
      const took = performance.now() - started;
      const map = body.heatmap ? await readMap(body.heatmap) : null;
      if (turn !== state.turn) return;
      Object.assign(state, { bitmap, map, answer: body });
      canvas.hidden = !bitmap;
      part("hint").hidden = Boolean(bitmap);
      part("stage-area").classList.toggle("has-image", Boolean(bitmap));
      part("timing").textContent = `${body.image.width} × ${body.image.height} · decode ${body.timing_ms.decode.toFixed(1)} ms, inference ${body.timing_ms.inference.toFixed(1)} ms, round trip ${took.toFixed(0)} ms`;
      setThreshold(body.threshold);
      draw();
      canvas.dataset.answer = turn; // says which answer is drawn
    } catch (error) {
      if (turn === state.turn) showProblem(part("problem"), error);
    } finally {
      if (turn === state.turn) part("busy").hidden = true;
    }
  }

  function setThreshold(value) {
    const [low, high] = range();
    Object.assign(part("threshold"), { min: low, max: high, step: "any", value });
    showThreshold();
  }

  // -------------------------------------------------------------------------------------- events

  const stage = part("stage-area");
  for (const type of ["dragenter", "dragover"]) stage.addEventListener(type, (event) => { event.preventDefault(); stage.classList.add("is-over"); });
  for (const type of ["dragleave", "drop"]) stage.addEventListener(type, () => stage.classList.remove("is-over"));
  stage.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) ask(event.dataTransfer.files[0]);
  });
  part("file").addEventListener("change", (event) => { if (event.target.files.length) ask(event.target.files[0]); });
  addEventListener("paste", (event) => { if (event.clipboardData.files.length) ask(event.clipboardData.files[0]); });
  root.addEventListener("click", async (event) => {
    const sample = event.target.closest("[data-sample]");
    if (!sample) return;
    for (const other of root.querySelectorAll("[data-sample]")) other.setAttribute("aria-pressed", String(other === sample));
    try {
      const response = await fetch(sample.dataset.sample);
      if (!response.ok) throw new Problem(response.status, await response.json().catch(() => ({})));
      await ask(await response.blob());
    } catch (error) {
      showProblem(part("problem"), error);
    }
  });
  part("threshold").addEventListener("input", showThreshold);
  for (const name of ["opacity", "cut"]) {
    const show = () => { part(`${name}-out`).value = `${Math.round(100 * part(name).value)} %`; draw(); };
    part(name).addEventListener("input", show);
    show();
  }
  setThreshold(report.threshold ?? 0.5);
}
