// Asking an endpoint through the Hub, and showing that it is being asked.

import { Problem, showProblem } from "./ui.js";

const percentOf = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 1 });
export const percent = (share) => percentOf.format(share).replace("%", " %");

/** The JSON in a `<script data-...>` of the playground. */
export const embedded = (element) => JSON.parse(element?.textContent || "{}");

/**
 * Makes a function that asks and hands the answer on. Only the latest question's answer counts: what comes
 * late is dropped.
 * @param {HTMLElement} root with `data-endpoint`, and parts `[data-busy]` and `[data-problem]`.
 * @param {(answer: object, tookMs: number, turn: number, input: any) => void | Promise<void>} show
 */
export function asker(root, show, { query = "" } = {}) {
  const busy = root.querySelector("[data-busy]");
  const problem = root.querySelector("[data-problem]");
  let turn = 0;
  return async (body, contentType, input) => {
    const mine = (turn += 1);
    busy.hidden = false;
    problem.hidden = true;
    try {
      const started = performance.now();
      const response = await fetch(`/v1/endpoints/${root.dataset.endpoint}/predict${query}`, { method: "POST", body, headers: { "Content-Type": contentType } });
      const answer = await response.json().catch(() => ({}));
      if (!response.ok) throw new Problem(response.status, answer);
      const took = performance.now() - started;
      if (mine !== turn) return;
      await show(answer, took, mine, input, () => mine === turn);
    } catch (error) {
      if (mine === turn) showProblem(problem, error);
    } finally {
      if (mine === turn) busy.hidden = true;
    }
  };
}

export const timing = (answer, tookMs) => `${answer.image ? `${answer.image.width} × ${answer.image.height} · decode ${answer.timing_ms.decode.toFixed(1)} ms, ` : ""}inference ${answer.timing_ms.inference.toFixed(1)} ms, round trip ${tookMs.toFixed(0)} ms`;

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Rows of a name and a bar for its share, 0 to 1. */
export function bars(entries) {
  return element("ul", { className: "shares" }, ...entries.map(({ name, share, swatch, chosen }) => {
    const meter = element("meter", { min: 0, max: 1, value: share });
    meter.setAttribute("aria-label", name);
    return element("li", { className: chosen ? "is-chosen" : "" },
      element("span", {}, ...(swatch ? [swatch] : []), name),
      meter,
      element("span", { className: "num", textContent: percent(share) }));
  }));
}
