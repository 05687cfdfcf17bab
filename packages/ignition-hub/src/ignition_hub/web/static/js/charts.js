// uPlot (a global, from vendor/) dressed in the theme's colours; charts follow width and theme.

import { color, withAlpha } from "./ui.js";

function axis(label, extra = {}) {
  const muted = color("--muted");
  return {
    label, labelSize: 22, labelFont: "500 12px Inter, sans-serif", font: "12px Inter, sans-serif", stroke: muted,
    grid: { stroke: withAlpha(muted, 0.15), width: 1 }, ticks: { show: false }, ...extra,
  };
}

/** Draws `build()` into `element` and again whenever its width or the theme changes. */
function mount(element, build, data) {
  let plot;
  const draw = () => {
    plot?.destroy();
    const options = build();
    plot = new uPlot({ width: element.clientWidth, height: 250, ...options }, data, element);
  };
  draw();
  let width = element.clientWidth;
  new ResizeObserver(() => {
    if (element.clientWidth === width) return;
    width = element.clientWidth;
    plot.setSize({ width, height: 250 });
  }).observe(element);
  addEventListener("themechange", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  return { setData: (next) => { data = next; plot.setData(next); } };
}

export function roc(element, { fpr, tpr }) {
  mount(element, () => ({
    cursor: { drag: { x: false, y: false } }, legend: { show: false },
    scales: { x: { time: false, range: [0, 1] }, y: { range: [0, 1.02] } },
    axes: [axis("False alarms", { size: 30 }), axis("Defects found", { size: 46 })],
    series: [{}, { stroke: color("--accent"), width: 2.5, fill: withAlpha(color("--accent"), 0.12), points: { show: false } },
      { stroke: withAlpha(color("--muted"), 0.6), dash: [4, 4], width: 1, points: { show: false } }],
  }), [fpr, tpr, fpr]);
}

export function histogram(element, { edges, ok, defective }, threshold) {
  const middles = ok.map((_, i) => (edges[i] + edges[i + 1]) / 2);
  const bars = uPlot.paths.bars({ size: [0.9, 64] });
  const line = (plot) => {
    if (threshold == null) return;
    const x = plot.valToPos(threshold, "x", true);
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = color("--text");
    ctx.lineWidth = 1.5 * devicePixelRatio;
    ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.restore();
  };
  mount(element, () => ({
    cursor: { drag: { x: false, y: false } }, legend: { show: false }, hooks: { draw: [line] },
    scales: { x: { time: false, range: [edges[0], edges[edges.length - 1]] } },
    axes: [axis("Anomaly score", { size: 30 }), axis("Images", { size: 46 })],
    series: [{}, ...[["--ok"], ["--bad"]].map(([token]) => ({ stroke: color(token), fill: withAlpha(color(token), 0.55), width: 1, paths: bars, points: { show: false } }))],
  }), [middles, ok, defective]);
}

/** A live line chart: `x` against each of `names`. */
export function lines(element, xName, names, data) {
  const tokens = ["--accent", "--ok", "--info", "--bad"];
  return mount(element, () => ({
    cursor: { drag: { x: false, y: false } }, scales: { x: { time: false } },
    axes: [axis(xName, { size: 30, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] }), axis(null, { size: 52 })],
    series: [{ label: xName }, ...names.map((name, i) => ({ label: name.replaceAll("_", " "), stroke: color(tokens[i % 4]), width: 2, spanGaps: true, points: { show: data[0].length < 3 } }))],
  }), data);
}
