// The operator's view of the farm: workers, and open jobs by tenant.

import { call } from "./api.js";

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
  rows($("workers"), workers, drawWorker, farm.blocked ?? "No worker yet.");
  $("farm-trouble").textContent = farm.trouble ?? "";
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
  cell(row, 2, "Runs", worker.task ? `${worker.task} of ${worker.clip.slice(0, 8)}` : (worker.why ?? "–"));
  cell(row, 3, "GPUs", worker.gpus);
  cell(row, 4, "Node", worker.node);
  const place = cell(row, 5, "");
  const button = place.firstElementChild ?? place.appendChild(newButton(row));
  const draining = worker.state.startsWith("drain");
  button.dataset.action = draining ? "undrain" : "drain";
  button.textContent = draining ? "Give tasks again" : "Drain";
  button.setAttribute("aria-label", `${button.textContent}: ${name}`);
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
      $("farm-error").textContent = error.message;
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
