// One endpoint's panel: make a key, put it into the snippets; and its playground.

import { startPlayground } from "./playground.js";
import { copyText, postJson, showProblem, toast } from "./ui.js";

async function createKey(panel) {
  const area = panel.querySelector("[data-key-area]");
  const button = panel.querySelector("[data-create-key]");
  button.disabled = true;
  try {
    const made = await postJson(`/v1/endpoints/${panel.dataset.endpoint}/keys`, {});
    const line = Object.assign(document.createElement("div"), { className: "copy-line" });
    const copy = Object.assign(document.createElement("button"), { className: "btn btn-sm", type: "button", textContent: "Copy" });
    const code = Object.assign(document.createElement("code"), { textContent: made.key, tabIndex: 0 });
    code.dataset.newKey = "";
    copy.addEventListener("click", () => copyText(made.key));
    line.append(code, copy);
    const note = Object.assign(document.createElement("p"), { className: "small muted", textContent: "Copy it now: it is not shown again. The snippets already have it." });
    area.replaceChildren(line, note);
    for (const slot of panel.querySelectorAll("[data-key]")) slot.textContent = made.key;
    button.lastChild.textContent = "Replace the key";
    button.classList.remove("btn-primary");
    toast("Key created");
  } catch (error) {
    const box = document.createElement("div");
    showProblem(box, error);
    area.replaceChildren(box);
  } finally {
    button.disabled = false;
  }
}

for (const panel of document.querySelectorAll("[data-endpoint-panel]")) {
  const button = panel.querySelector("[data-create-key]");
  if (!button.dataset.open) button.addEventListener("click", () => createKey(panel));
  panel.querySelector("[data-confirm-key]")?.addEventListener("click", () => createKey(panel));
}
for (const element of document.querySelectorAll("[data-playground]")) startPlayground(element);
