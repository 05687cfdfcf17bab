// uPlot (a global, from vendor/) dressed in the theme's colours; charts follow width and theme.

import { color, withAlpha } from "./ui.js";

const HEIGHT = 250;
/** The colours of style.css' swatches c0 to c5. */
const TOKENS = ["--ok", "--bad", "--info", "--warn", "--accent", "--muted"];

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
    plot = new uPlot({ width: element.clientWidth, height: HEIGHT, ...build() }, data, element);
  };
  draw();
  let width = element.clientWidth;
  new ResizeObserver(() => {
    if (element.clientWidth === width) return;
    width = element.clientWidth;
    plot.setSize({ width, height: HEIGHT });
  }).observe(element);
  addEventListener("themechange", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  return { setData: (next) => { data = next; plot.setData(next); } };
}

/** Vertical lines with names, drawn over everything else. */
const markers = (marks) => (plot) => {
  const { ctx, bbox } = plot;
  const scale = devicePixelRatio;
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = color("--text");
  ctx.lineWidth = 1.5 * scale;
  ctx.font = `${11 * scale}px Inter, sans-serif`;
  for (const mark of marks) {
    const x = plot.valToPos(mark.x, "x", true);
    if (!(x >= bbox.left - 1 && x <= bbox.left + bbox.width + 1)) continue;
    ctx.setLineDash([4 * scale, 4 * scale]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    const right = x > bbox.left + 0.7 * bbox.width;
    ctx.textAlign = right ? "right" : "left";
    ctx.fillText(mark.name, x + (right ? -5 : 5) * scale, bbox.top + 11 * scale);
  }
  ctx.restore();
};

const shared = (chart) => ({
  cursor: { drag: { x: false, y: false } }, legend: { show: false },
  hooks: { draw: [markers(chart.marks ?? [])] },
  axes: [axis(chart.x_title, { size: chart.x_is_time ? 44 : 30 }), axis(chart.y_title, { size: 54 })],
});

/** Lines, each perhaps with a band around it. */
function drawLines(element, chart) {
  const data = [chart.x];
  const bands = [];
  const describe = [];
  for (const one of chart.series) {
    const token = TOKENS[one.swatch];
    if (one.low && one.high) {
      // uPlot fills between two series, the upper one first; both are drawn without a line.
      data.push(one.high, one.low);
      describe.push({ token: null }, { token: null });
      bands.push({ series: [data.length - 2, data.length - 1], token });
    }
    data.push(one.y);
    describe.push({ token });
  }
  const few = chart.x.length < 3;
  mount(element, () => ({
    ...shared(chart),
    scales: { x: { time: Boolean(chart.x_is_time) } },
    bands: bands.map(({ series, token }) => ({ series, fill: withAlpha(color(token), 0.18) })),
    series: [{}, ...describe.map(({ token }) => token
      ? { stroke: color(token), width: 2.2, points: { show: few } }
      : { stroke: "transparent", width: 0, points: { show: false } })],
  }), data);
}

/** Bars between the edges `x`, one set of them per series, over each other. */
function drawHistogram(element, chart) {
  const edges = chart.x;
  const middles = edges.slice(1).map((edge, i) => (edges[i] + edge) / 2);
  const bars = uPlot.paths.bars({ size: [0.9, 64] });
  mount(element, () => ({
    ...shared(chart),
    scales: { x: { time: false, range: [edges[0], edges[edges.length - 1]] }, y: { range: (_plot, _low, high) => [0, (high || 1) * 1.08] } },
    series: [{}, ...chart.series.map((one) => {
      const stroke = color(TOKENS[one.swatch]);
      return { stroke, fill: withAlpha(stroke, 0.55), width: 1, paths: bars, points: { show: false } };
    })],
  }), [middles, ...chart.series.map((one) => one.y)]);
}

/** What a chart of a report describes (xtorch.tasks.report.Chart); bars are drawn by the server. */
export function draw(element, chart) {
  if (chart.kind === "histogram") drawHistogram(element, chart);
  else drawLines(element, chart);
}

/** A live line chart: `x` against each of `names`. */
export function live(element, xName, names, data) {
  const tokens = ["--accent", "--ok", "--info", "--bad"];
  return mount(element, () => ({
    cursor: { drag: { x: false, y: false } }, scales: { x: { time: false } },
    axes: [axis(xName, { size: 30, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] }), axis(null, { size: 52 })],
    series: [{ label: xName }, ...names.map((name, i) => ({ label: name.replaceAll("_", " "), stroke: color(tokens[i % 4]), width: 2, spanGaps: true, points: { show: data[0].length < 3 } }))],
  }), data);
}
