// The operator's view of the farm: workers, and open jobs by tenant.

import { call } from "./api.js";
import { hash } from "./gallery.js";
import { doing, sentence } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const STRIP_S = 600;
const STATES = ["queued", "running", "paused", "cancelling"];
const $ = (id) => document.getElementById(id);

// Resolves to whether the caller is an operator.
export async function refresh() {
  try {
    show(await call("v1/farm"));
  } catch (error) {
    if (error.status !== 403) throw error;
    there(false);
    return false;
  }
  return true;
}

export function there(is) {
  $("farm").hidden = !is;
  $("farm-link").hidden = !is;
}

function show(farm) {
  there(true);
  const workers = Object.entries(farm.workers);
  rows($("workers"), workers, drawWorker, sentence(farm.blocked ?? "") || "No workers yet.");
  $("farm-trouble").textContent = sentence(farm.trouble ?? "");
  rows($("tenants"), Object.entries(farm.jobs), drawTenant, "No open jobs.");
}

// Rows are reused, so that a button keeps its focus.
function rows(body, entries, draw, none) {
  const names = new Set(entries.map(([name]) => name));
  for (const row of [...body.rows]) if (!names.has(row.dataset.name)) row.remove();
  for (const [name, told] of entries) {
    let row = [...body.rows].find((r) => r.dataset.name === name);
    if (!row) {
      row = body.insertRow();
      row.dataset.name = name;
    }
    draw(row, name, told);
  }
  if (!entries.length) cell(body.insertRow(), 0, "", none).colSpan = 6;
}

function cell(row, place, label, text) {
  const found = row.cells[place] ?? row.insertCell();
  found.dataset.label = label;
  if (text !== undefined && found.textContent !== String(text)) found.textContent = text;
  return found;
}

function drawWorker(row, name, worker) {
  cell(row, 0, "Worker", name);
  cell(row, 1, "State", worker.state).dataset.state = worker.state;
  drawTask(cell(row, 2, "Current task"), worker);
  drawStrip(cell(row, 3, "Last ten minutes"), worker.history);
  cell(row, 4, "Node", [worker.node, worker.gpus ? `${worker.gpus} GPU` : "CPU"].join(" · "));
  const place = cell(row, 5, "");
  const button = place.firstElementChild ?? place.appendChild(newButton(row));
  const draining = worker.state.startsWith("drain");
  button.dataset.action = draining ? "undrain" : "drain";
  button.textContent = draining ? "Resume" : "Drain";
  button.setAttribute("aria-label", `${button.textContent}: ${name}`);
}

// What a worker does, with a link to the clip.
function drawTask(place, worker) {
  const text = doing(worker);
  if (place.textContent === text) return;
  const link = worker.job && Object.assign(document.createElement("a"), { href: hash(worker.job), textContent: text });
  place.replaceChildren(link || text);
}

// A line of ten minutes, whose end is now, with the stages that the worker was busy with.
function drawStrip(place, history) {
  const strip = document.createElementNS(SVG, "svg");
  const busy = history.reduce((sum, [, began, ended]) => sum + Math.min(began, STRIP_S) - ended, 0);
  const share = `busy ${Math.round((100 * busy) / STRIP_S)}% of the last ten minutes`;
  for (const [name, value] of Object.entries({ class: "strip", viewBox: `0 0 ${STRIP_S} 10`, preserveAspectRatio: "none", role: "img", "aria-label": share })) strip.setAttribute(name, value);
  for (const [stage, began, ended] of history) {
    const bar = document.createElementNS(SVG, "rect");
    const from = Math.max(0, STRIP_S - began);
    for (const [name, value] of Object.entries({ x: from, width: Math.max(1, STRIP_S - ended - from), height: 10, "data-stage": stage })) bar.setAttribute(name, value);
    strip.append(bar);
  }
  place.replaceChildren(strip);
}

function newButton(row) {
  const button = Object.assign(document.createElement("button"), { type: "button" });
  button.addEventListener("click", async () => {
    const path = `v1/farm/workers/${encodeURIComponent(row.dataset.name)}/${button.dataset.action}`;
    button.disabled = true;
    try {
      show(await call(path, { method: "POST" }));
      $("farm-error").textContent = "";
    } catch (error) {
      $("farm-error").textContent = sentence(error.message);
    } finally {
      button.disabled = false;
    }
  });
  return button;
}

function drawTenant(row, tenant, counts) {
  cell(row, 0, "Tenant", tenant);
  STATES.forEach((state, n) => cell(row, n + 1, state[0].toUpperCase() + state.slice(1), counts[state] ?? 0));
}
