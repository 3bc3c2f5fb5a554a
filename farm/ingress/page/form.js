// The form: the picture, the parameters, and their errors.

import { call, ApiError } from "./api.js";

const form = document.getElementById("make");
const input = form.elements.input_reference;
const preview = document.getElementById("preview");
const drop = document.getElementById("drop");
// The page is served with the farm's defaults in its fields.
const defaultOf = (name) => Number(form.elements[name].defaultValue);
const DEFAULTS = Object.fromEntries(["motion_bucket_id", "noise_aug_strength", "fps"].map((name) => [name, defaultOf(name)]));
const PRESETS = {
  subtle: { ...DEFAULTS, motion_bucket_id: 40, fps: 8 },
  balanced: DEFAULTS,
  strong: { ...DEFAULTS, motion_bucket_id: 200, noise_aug_strength: 0.08 },
};
const SEEDS = 1_000_000; // random seeds are below: short enough to read aloud
const LOST = "the farm may have it all the same; press Render again, and it is not rendered twice";

// Each request has its own idempotency key, so that sending it again gives the same job.
let sent = null; // {what, key}

export const randomSeed = () => String(crypto.getRandomValues(new Uint32Array(1))[0] % SEEDS);

const randomKey = () => // crypto.randomUUID needs HTTPS
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (n) => n.toString(16).padStart(2, "0")).join("");

// Submit a job. `asked` is {picture, fields}.
export async function submit(asked) {
  const body = new FormData();
  for (const [name, value] of Object.entries(asked.fields)) body.append(name, value);
  body.append("input_reference", asked.picture, asked.picture.name);
  const { name, size, lastModified } = asked.picture;
  const what = JSON.stringify([asked.fields, name, size, lastModified]);
  if (sent?.what !== what) sent = { what, key: randomKey() };
  try {
    const headers = { "Idempotency-Key": sent.key };
    const video = await call("v1/videos", { method: "POST", body, headers });
    sent = null;
    return video;
  } catch (error) {
    throw error.status ? error : new ApiError(`${error.message} If it was the answer that got lost, ${LOST}.`);
  }
}

// The form's request; or null, and the form shows what is wrong.
export function asked() {
  clearErrors();
  const faults = [...form.elements].filter((field) => field.willValidate && !field.validity.valid);
  for (const field of faults) tell(field.name, field.validity.patternMismatch ? field.title : field.validationMessage);
  if (!input.files.length) {
    tell("input_reference", "Choose a picture first.");
    faults.unshift(input);
  }
  faults[0]?.focus();
  if (faults.length) return null;
  const fields = {};
  for (const { name, value, type } of form.elements) {
    if (name && value !== "" && type !== "file" && type !== "radio") fields[name] = value;
  }
  return { picture: input.files[0], fields };
}

export function fail(error) {
  // If the picture cannot be read, the farm's error names no parameter.
  const picture = error.status === 400 && /^the (file|picture) /.test(error.message);
  const param = error.param ?? (picture ? "input_reference" : null);
  if (!param || !tell(param, plain(param, error.message))) tell("form", error.message);
  form.elements[param]?.focus();
}

const plain = (param, message) => // the field's label says its name already
  message.startsWith(`${param}: `) ? message.slice(param.length + 2) : message;

export function clearErrors() {
  for (const line of form.querySelectorAll(".error")) line.textContent = "";
  for (const field of form.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
}

function tell(name, message) {
  const field = form.elements[name];
  const line = document.getElementById(`${name}-error`) ?? (field && lineOf(field));
  if (!line) return false;
  line.textContent = message;
  field?.setAttribute("aria-invalid", "true");
  if (field?.closest("details")) field.closest("details").open = true;
  return true;
}

function lineOf(field) {
  const line = Object.assign(document.createElement("p"), { className: "error", id: `${field.name}-error` });
  line.setAttribute("role", "alert");
  field.closest(".field").append(line);
  field.setAttribute("aria-describedby", line.id);
  return line;
}

// Sliders serve pointers. The number beside each has the label, and takes a wider range.
function addSlider(field) {
  const [min, max, step] = field.dataset.slide.split(" ");
  const slider = Object.assign(document.createElement("input"), { type: "range", min, max, step, tabIndex: -1 });
  slider.setAttribute("aria-hidden", "true");
  slider.value = field.value;
  slider.addEventListener("input", () => {
    field.value = slider.value;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  });
  field.addEventListener("input", () => (slider.value = field.value));
  field.before(slider);
}

function usePreset(name) {
  for (const [field, value] of Object.entries(PRESETS[name])) {
    form.elements[field].value = value;
    form.elements[field].dispatchEvent(new Event("input", { bubbles: true }));
  }
}

// The form always sends the number of steps, so it must follow the tier.
function useTier() {
  const steps = form.elements.num_inference_steps;
  steps.value = form.elements.tier.selectedOptions[0].dataset.steps ?? steps.defaultValue;
  steps.dispatchEvent(new Event("input", { bubbles: true }));
}

function showPreset() {
  const same = ([, values]) => Object.entries(values).every(([n, v]) => Number(form.elements[n].value) === v);
  const found = Object.entries(PRESETS).find(same)?.[0];
  for (const radio of form.elements.preset) radio.checked = radio.value === found;
}

function showPicture() {
  const file = input.files[0];
  clearErrors();
  URL.revokeObjectURL(preview.src);
  preview.hidden = true;
  if (!file) return;
  document.getElementById("picture-name").textContent = file.name;
  document.getElementById("picture-told").textContent = "Choose another";
  preview.src = URL.createObjectURL(file);
}

function takeDrop(event) {
  event.preventDefault();
  drop.classList.remove("over");
  const files = new DataTransfer();
  const file = [...event.dataTransfer.files][0];
  if (!file) return;
  files.items.add(file);
  input.files = files.files;
  showPicture();
}

function prepareDrop() {
  // On the whole page, since a picture dropped elsewhere would replace the page.
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || drop.classList.remove("over"));
  document.addEventListener("drop", takeDrop);
}

export async function prepare() {
  for (const field of form.querySelectorAll("[data-slide]")) addSlider(field);
  form.elements.seed.value = randomSeed();
  document.getElementById("random").addEventListener("click", () => (form.elements.seed.value = randomSeed()));
  for (const radio of form.elements.preset) radio.addEventListener("change", () => usePreset(radio.value));
  form.elements.tier.addEventListener("change", useTier);
  form.addEventListener("input", (event) => event.target.name in PRESETS.balanced && showPreset());
  input.addEventListener("change", showPicture);
  preview.addEventListener("load", () => (preview.hidden = false));
  prepareDrop();
}

export function offer(models) {
  form.elements.model.replaceChildren(...models.map((name) => new Option(name, name)));
}
