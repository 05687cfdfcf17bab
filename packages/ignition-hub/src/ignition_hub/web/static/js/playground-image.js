// An image goes to the endpoint: dropped, chosen, pasted or picked from those the model has never seen.
// What is laid over it and said beside it is a view's: one for anomalies, one for all that is found.

import { asker, timing } from "./asking.js";
import { Problem, showProblem } from "./ui.js";
import { anomalyView } from "./view-anomaly.js";
import { findingsView } from "./view-findings.js";

export function startImage(root) {
  const part = (name) => root.querySelector(`[data-${name}]`);
  const canvas = part("canvas");
  const state = { bitmap: null, answer: null };
  const draw = () => {
    if (!state.bitmap) return;
    [canvas.width, canvas.height] = [state.bitmap.width, state.bitmap.height];
    const context = canvas.getContext("2d");
    context.drawImage(state.bitmap, 0, 0);
    if (state.answer) view.paint(context);
  };
  const view = (part("threshold") ? anomalyView : findingsView)(root, draw);

  const ask = asker(root, async (answer, took, turn, blob, isLatest) => {
    const bitmap = await createImageBitmap(blob).catch(() => null);
    const shown = await view.read(answer);
    if (!isLatest()) return;
    Object.assign(state, { bitmap, answer });
    canvas.hidden = !bitmap;
    part("hint").hidden = Boolean(bitmap);
    part("stage-area").classList.toggle("has-image", Boolean(bitmap));
    part("timing").textContent = timing(answer, took);
    view.show(answer, shown);
    draw();
    canvas.dataset.answer = turn; // says which answer is drawn
  }, { query: view.query });
  const askAbout = (blob) => ask(blob, "application/octet-stream", blob);

  const stage = part("stage-area");
  for (const type of ["dragenter", "dragover"]) stage.addEventListener(type, (event) => { event.preventDefault(); stage.classList.add("is-over"); });
  for (const type of ["dragleave", "drop"]) stage.addEventListener(type, () => stage.classList.remove("is-over"));
  stage.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) askAbout(event.dataTransfer.files[0]);
  });
  part("file").addEventListener("change", (event) => { if (event.target.files.length) askAbout(event.target.files[0]); });
  addEventListener("paste", (event) => { if (event.clipboardData.files.length) askAbout(event.clipboardData.files[0]); });
  root.addEventListener("click", async (event) => {
    const sample = event.target.closest("[data-sample]");
    if (!sample) return;
    for (const other of root.querySelectorAll("[data-sample]")) other.setAttribute("aria-pressed", String(other === sample));
    try {
      const response = await fetch(sample.dataset.sample);
      if (!response.ok) throw new Problem(response.status, await response.json().catch(() => ({})));
      await askAbout(await response.blob());
    } catch (error) {
      showProblem(part("problem"), error);
    }
  });
}
