// Small shared helpers: toasts, problems, numbers for people, colours of the theme.

export function toast(text, kind = "") {
  const element = document.createElement("div");
  element.className = `toast ${kind ? `toast-${kind}` : ""}`;
  element.textContent = text;
  document.querySelector(".toasts").append(element);
  setTimeout(() => element.remove(), kind === "bad" ? 10000 : 4000);
}

/** Puts `text` on the clipboard and says so. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // The clipboard API needs a secure origin; a Hub in the local network often has none.
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  toast("Copied");
}

/** An error with the problem JSON (RFC 9457) of a failed answer. */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || `The Hub answered ${status}.`);
    this.status = status;
    this.hint = body.hint || "";
    this.code = body.code || "";
  }
}

/** `fetch` that answers JSON, or throws a `Problem`. */
export async function request(url, options = {}) {
  const response = await fetch(url, options);
  if (response.status === 401) location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
  if (!response.ok) throw new Problem(response.status, await response.json().catch(() => ({})));
  return response.status === 204 ? null : response.json();
}

export function postJson(url, body) {
  return request(url, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
}

export function showProblem(box, error) {
  box.hidden = false;
  box.className = "notice notice-bad";
  const text = document.createElement("div");
  for (const [tag, content] of [["h3", error.message], ["p", error.hint]]) {
    if (content) text.append(Object.assign(document.createElement(tag), { textContent: content }));
  }
  box.replaceChildren(text);
}

export function bytes(number) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let step = 0;
  while (number >= 1000 && step < units.length - 1) [number, step] = [number / 1000, step + 1];
  return `${number < 10 && step ? number.toFixed(1) : Math.round(number)} ${units[step]}`;
}

export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

export const count = (number) => number.toLocaleString("en");

/** The theme's present value of a colour token such as `--ok`, as `rgb(...)`. */
export function color(token) {
  const probe = document.createElement("span");
  probe.style.color = `var(${token})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

export const withAlpha = (rgb, alpha) => rgb.replace(/^rgb\((.*)\)$/, `rgba($1, ${alpha})`);

export const svg = (tag, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};
