// The uploader: a dropped folder is read, hashed in workers, and only what the Hub lacks is sent.
// Dropping the same folder again resumes: what arrived is not missing any more.

import { bytes, count, duration, postJson, request, showProblem, svg } from "./ui.js";

const NUM_UPLOADS = 4;
const MISSING_BATCH = 1000;
const ATTEMPTS = 4;
const JUNK = /(^|\/)(\.[^/]*|Thumbs\.db|desktop\.ini|__MACOSX)(\/|$)/i;

const root = document.getElementById("uploader");
const part = (name) => root.querySelector(`[data-${name}]`);
const state = { entries: [], folder: "", stopped: false };

// ------------------------------------------------------------------------------ reading a folder

/** All files below dropped items, as `{path, file}` with paths below the dropped folder. */
async function readItems(items) {
  const roots = items.map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const found = [];
  const walk = async (entry, path) => {
    if (entry.isFile) {
      found.push({ path, file: await new Promise((resolve, reject) => entry.file(resolve, reject)) });
      if (found.length % 200 === 0) part("spoken").textContent = `${found.length} files found`;
      return;
    }
    const reader = entry.createReader();
    for (;;) { // a directory answers at most 100 entries a time
      const batch = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!batch.length) return;
      for (const child of batch) await walk(child, `${path}/${child.name}`);
    }
  };
  for (const entry of roots) await walk(entry, entry.name);
  return found;
}

/** Takes the common top folder off the paths, unless it is a class itself (`ok`, `defective`, ...). */
function belowTop(entries) {
  const tops = new Set(entries.map(({ path }) => path.split("/")[0]));
  const nested = entries.every(({ path }) => path.includes("/"));
  const [top] = tops;
  const deep = entries.some(({ path }) => path.split("/").length > 2);
  if (tops.size !== 1 || !nested || (!deep && /^(ok|good|normal)$/i.test(top))) return { folder: "", entries };
  return { folder: top, entries: entries.map(({ path, file }) => ({ path: path.slice(top.length + 1), file })) };
}

function slug(text) {
  return text.normalize("NFKD").toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 63).replace(/-+$/, "");
}

/** The classes as the folders name them: `train/ok` and `test/ok` are both `ok`. */
function className(path) {
  const folders = path.split("/").slice(0, -1);
  if (/^(train|test|val|validation)$/i.test(folders[0] ?? "")) folders.shift();
  return folders[0] ?? "(no folder)";
}

function choose(found, folder = "") {
  const kept = found.filter(({ path, file }) => !JUNK.test(path) && file.size > 0);
  if (!kept.length) return fail({ message: "There are no files in what was dropped.", hint: "Drop a folder that holds images or a table." });
  const below = belowTop(kept);
  state.entries = below.entries.sort((a, b) => (a.path < b.path ? -1 : 1));
  state.folder = below.folder || folder;
  part("error").hidden = true;
  part("drop").hidden = true;
  part("selection").hidden = false;
  showCounts();
  const name = root.querySelector("#name");
  if (!name.value) name.value = slug(state.folder) || "data";
  part("start").focus();
}

function showCounts() {
  const counts = new Map();
  for (const { path } of state.entries) counts.set(className(path), (counts.get(className(path)) ?? 0) + 1);
  const classes = [...counts].sort((a, b) => b[1] - a[1]);
  const order = (name) => (/^(ok|good|normal)$/i.test(name) ? 0 : /^(defective|bad|defect|anomaly)$/i.test(name) ? 1 : 2 + (classes.findIndex(([other]) => other === name) % 4));
  const bar = svg("svg", { viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" });
  const legend = Object.assign(document.createElement("div"), { className: "row small num" });
  let at = 0;
  for (const [name, number] of classes) {
    const width = (100 * number) / state.entries.length;
    bar.append(svg("rect", { x: at, y: 0, width, height: 1, class: `c${order(name)}` }));
    at += width;
    if (legend.childElementCount > 11) continue;
    const label = document.createElement("span");
    label.append(Object.assign(document.createElement("i"), { className: `swatch c${order(name)}` }), `${name} `, Object.assign(document.createElement("strong"), { textContent: count(number) }));
    legend.append(label);
  }
  part("counts").replaceChildren(bar, legend);
  part("total").textContent = `${count(state.entries.length)} files, ${bytes(state.entries.reduce((sum, { file }) => sum + file.size, 0))}`;
}

// ------------------------------------------------------------------------------------ the transfer

class Paused extends Error {}

/** Runs `work(item)` over items, `width` at a time; the first error ends all. */
async function inParallel(items, width, work) {
  let next = 0;
  let failed = null;
  const lane = async (index) => {
    while (next < items.length && !failed) {
      if (state.stopped) throw new Paused();
      try {
        await work(items[next++], index);
      } catch (error) {
        failed = error;
        throw error;
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(width, items.length) }, (_, index) => lane(index)));
}

function startHasher() {
  const url = new URL(root.dataset.worker, location);
  url.searchParams.set("hasher", new URL(root.dataset.hasher, location).href);
  const worker = new Worker(url);
  const waiting = new Map();
  worker.onmessage = ({ data }) => {
    const { resolve, reject } = waiting.get(data.id);
    waiting.delete(data.id);
    if (data.error) reject(new Error(data.error));
    else resolve(data.digest);
  };
  worker.onerror = (event) => { for (const { reject } of waiting.values()) reject(new Error(event.message || "hashing failed")); };
  let id = 0;
  return {
    hash: (file) => new Promise((resolve, reject) => { waiting.set(++id, { resolve, reject }); worker.postMessage({ id, file }); }),
    stop: () => worker.terminate(),
  };
}

/** Follows files and bytes of one phase and says how long it will take. */
function meter(phase, numFiles, numBytes) {
  const started = performance.now();
  const done = { files: 0, bytes: 0 };
  part("phase").textContent = phase;
  part("spoken").textContent = phase;
  const show = () => {
    const seconds = (performance.now() - started) / 1000;
    const share = numBytes ? done.bytes / numBytes : 1;
    part("bar").value = share;
    part("files").textContent = `${count(done.files)} of ${count(numFiles)} files`;
    part("bytes").textContent = `${bytes(done.bytes)} of ${bytes(numBytes)}${seconds > 0.5 ? ` · ${bytes(done.bytes / seconds)}/s` : ""}`;
    part("eta").textContent = seconds > 1 && share > 0.01 && share < 1 ? `about ${duration((seconds * (1 - share)) / share)} left` : "";
  };
  show();
  return (size) => { done.files += 1; done.bytes += size; show(); };
}

async function hashAll(entries) {
  const hashers = Array.from({ length: Math.min(4, navigator.hardwareConcurrency || 2) }, startHasher);
  const tick = meter("Reading files", entries.length, entries.reduce((sum, { file }) => sum + file.size, 0));
  try {
    await inParallel(entries, hashers.length, async (entry, lane) => {
      try {
        entry.digest ??= await hashers[lane].hash(entry.file);
      } catch (error) {
        throw Object.assign(new Error(`${entry.path} cannot be read: ${error.message}`), { hint: "Check that the file still exists and may be read, then drop the folder again." });
      }
      tick(entry.file.size);
    });
  } finally {
    for (const hasher of hashers) hasher.stop();
  }
}

async function findMissing(digests) {
  const missing = [];
  for (let at = 0; at < digests.length; at += MISSING_BATCH) {
    if (state.stopped) throw new Paused();
    missing.push(...(await postJson("/v1/blobs/missing", { digests: digests.slice(at, at + MISSING_BATCH) })).missing);
  }
  return missing;
}

async function send(entry) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await request(`/v1/blobs/${entry.digest}`, { method: "PUT", body: entry.file, headers: { "Content-Type": "application/octet-stream" } });
    } catch (error) {
      const temporary = !error.status || error.status === 429 || error.status >= 500;
      if (!temporary || attempt === ATTEMPTS) throw Object.assign(error, { hint: error.hint || `${entry.path} could not be sent. Press “Upload” to go on from here.` });
      await new Promise((resolve) => setTimeout(resolve, 500 * 2 ** attempt));
    }
  }
}

async function upload() {
  const name = root.querySelector("#name");
  if (!name.reportValidity() || !name.value) return name.focus();
  state.stopped = false;
  part("error").hidden = true;
  part("start").disabled = true;
  part("progress").hidden = false;
  try {
    await hashAll(state.entries);
    const byDigest = new Map(state.entries.map((entry) => [entry.digest, entry]));
    const missing = (await findMissing([...byDigest.keys()])).map((digest) => byDigest.get(digest));
    const tick = meter(missing.length ? "Uploading" : "Everything is already there", missing.length, missing.reduce((sum, { file }) => sum + file.size, 0));
    await inParallel(missing, NUM_UPLOADS, async (entry) => { await send(entry); tick(entry.file.size); });
    part("phase").textContent = "Making the dataset";
    const dataset = await postJson("/v1/datasets", { name: name.value, files: state.entries.map(({ path, digest, file }) => ({ path, digest, size_bytes: file.size })) });
    removeEventListener("beforeunload", warn);
    location.assign(`/new?dataset=${encodeURIComponent(dataset.name)}&version=${dataset.version}`);
  } catch (error) {
    part("progress").hidden = true;
    part("start").disabled = false;
    part("start").textContent = "Continue the upload";
    if (!(error instanceof Paused)) fail(error);
  }
}

function fail(error) {
  showProblem(part("error"), error);
  part("error").scrollIntoView({ block: "nearest" });
}

const warn = (event) => { if (!part("progress").hidden) event.preventDefault(); };

// ------------------------------------------------------------------------------------------ events

const drop = part("drop");
for (const type of ["dragenter", "dragover"]) addEventListener(type, (event) => { event.preventDefault(); drop.classList.add("is-over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("is-over"); });
addEventListener("drop", async (event) => {
  event.preventDefault();
  drop.classList.remove("is-over");
  if (!part("progress").hidden) return;
  try {
    choose(await readItems([...event.dataTransfer.items]));
  } catch (error) {
    fail({ message: "The folder could not be read.", hint: error.message });
  }
});
for (const input of root.querySelectorAll('input[type="file"]')) {
  input.addEventListener("change", () => {
    if (input.files.length) choose([...input.files].map((file) => ({ path: file.webkitRelativePath || file.name, file })));
    input.value = "";
  });
}
part("start").addEventListener("click", upload);
part("cancel").addEventListener("click", () => { state.stopped = true; });
part("reset").addEventListener("click", () => {
  state.stopped = true;
  for (const name of ["selection", "progress", "error"]) part(name).hidden = true;
  root.querySelector("#name").value = "";
  part("start").textContent = "Upload";
  drop.hidden = false;
});
addEventListener("beforeunload", warn);
