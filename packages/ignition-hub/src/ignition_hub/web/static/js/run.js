// The run page: live progress over server-sent events, metric chart, log tail; charts of the result.

import * as charts from "./charts.js";
import { duration, request } from "./ui.js";

const root = document.getElementById("run");
const part = (name) => root.querySelector(`[data-${name}]`);
const live = root.dataset.status === "running";

// ------------------------------------------------------------------------------------- progress

/** Shares of the whole run, for one bar over all its jobs. */
const SHARE = { check: 0.05, train: 0.5, build: 0.4 };

function overallProgress(snapshot) {
  let done = 0;
  for (const stage of snapshot.run.stages) {
    const share = SHARE[stage.id] ?? 0.05 / 3;
    const job = snapshot.jobs.find((candidate) => candidate.id === stage.job_id);
    if (stage.status === "done" || stage.status === "skipped") done += share;
    else if (stage.status === "running") done += share * (job?.last_event?.progress ?? 0);
  }
  return Math.min(done, 1);
}

function showStages(stages) {
  for (const stage of stages) {
    const item = root.querySelector(`[data-stage="${stage.id}"]`);
    if (item) item.className = `is-${stage.status}`;
  }
}

let spoken = "";
function show(snapshot) {
  const stage = snapshot.run.stages.find((candidate) => candidate.status === "running");
  const job = snapshot.jobs.find((candidate) => candidate.id === stage?.job_id);
  const event = job?.last_event;
  showStages(snapshot.run.stages);
  const waiting = job && job.status === "queued";
  const text = waiting ? `${stage.title}: waiting for an agent` : [stage?.title, event?.stage].filter(Boolean).join(": ") || "Finishing";
  part("stage-text").textContent = job && job.attempt > 1 ? `${text} (attempt ${job.attempt})` : text;
  part("message").textContent = event?.message || "";
  part("eta").textContent = event?.eta_s != null && !waiting ? `about ${duration(event.eta_s)} left in this stage` : "";
  const share = overallProgress(snapshot);
  part("bar").value = share;
  part("percent").textContent = `${Math.round(share * 100)} %`;
  if (text !== spoken) part("spoken").textContent = spoken = text;
  if (job) followJob(job.id);
}

function follow() {
  const stream = new EventSource(`/v1/runs/${root.dataset.run}/stream`);
  stream.addEventListener("snapshot", (message) => {
    const snapshot = JSON.parse(message.data);
    show(snapshot);
    if (snapshot.run.status !== "running") {
      stream.close();
      // The server renders the final state, so a reload and a late visitor see the same page.
      location.reload();
    }
  });
}

// -------------------------------------------------------------------------------------- metrics

let metrics = null;
let metricsJob = null;
async function refreshMetrics(jobId) {
  const answer = await request(`/v1/jobs/${jobId}/events`);
  const events = Array.isArray(answer) ? answer : answer.events;
  const told = events.filter(({ metrics: values }) => Object.keys(values).length > 1 || "loss" in values);
  // Of the latest stage: each counts its epochs or trials anew.
  const points = told.filter((event) => event.stage === told.at(-1).stage).map((event) => event.metrics);
  if (points.length < 2) return;
  const xName = ["epoch", "step", "trial"].find((name) => name in points[0]);
  const names = [...new Set(points.flatMap((values) => Object.keys(values)))].filter((name) => name !== xName).slice(0, 4);
  const data = [points.map((values, i) => (xName ? values[xName] : i)), ...names.map((name) => points.map((values) => values[name] ?? null))];
  const key = `${jobId}:${names}`;
  part("metrics-card").hidden = false;
  if (metricsJob === key) metrics.setData(data);
  else {
    part("metrics").replaceChildren();
    metrics = charts.live(part("metrics"), xName ?? "report", names, data);
    metricsJob = key;
  }
}

// ------------------------------------------------------------------------------------------ log

const log = { job: null, offset: 0, timer: 0, pinned: null };

async function readLog() {
  const job = log.job;
  const box = part("log-text");
  let final = false;
  try {
    const tail = await request(`/v1/jobs/${job}/log?offset=${log.offset}`);
    if (job !== log.job) return;
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    if (tail.text) box.append(tail.text);
    if (atEnd) box.scrollTop = box.scrollHeight;
    log.offset = tail.next_offset;
    final = tail.final && !tail.text;
    if (live) await refreshMetrics(job);
  } catch {
    // The Hub may be restarting; the next turn asks again.
  }
  if (job === log.job && !final) log.timer = setTimeout(readLog, live ? 1000 : 200);
}

function openLog(jobId) {
  if (log.job === jobId) return;
  clearTimeout(log.timer);
  Object.assign(log, { job: jobId, offset: 0 });
  part("log-text").replaceChildren();
  for (const tab of root.querySelectorAll("[data-log] [role=tab]")) {
    tab.setAttribute("aria-selected", String(tab.dataset.job === jobId));
    tab.tabIndex = tab.dataset.job === jobId ? 0 : -1;
    if (tab.dataset.job === jobId) part("log-text").setAttribute("aria-labelledby", tab.id);
  }
  readLog();
}

/** Shows the running job's log, unless the reader has picked another. */
function followJob(jobId) {
  if (!part("log")) return location.reload(); // the first job appeared: the page now has a log
  if (!root.querySelector(`[data-log] [data-job="${CSS.escape(jobId)}"]`)) {
    const tab = root.querySelector("[data-log] [role=tab]").cloneNode(true);
    Object.assign(tab, { id: `log-tab-${jobId}`, textContent: part("stage-text").textContent.split(":")[0] });
    tab.dataset.job = jobId;
    part("log").querySelector('[role="tablist"]').append(tab);
  }
  if (!log.pinned) openLog(jobId);
}

part("log")?.addEventListener("click", (event) => {
  const tab = event.target.closest('[role="tab"]');
  if (!tab) return;
  log.pinned = tab.dataset.job;
  openLog(tab.dataset.job);
});

// ---------------------------------------------------------------------------------------- start

if (live) follow();
else {
  const tabs = root.querySelectorAll("[data-log] [role=tab]");
  if (tabs.length) openLog(tabs[tabs.length - 1].dataset.job);
}
