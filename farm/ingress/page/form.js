// The form: the parameters, their defaults, and their errors.

import { call, ApiError } from "./api.js";
import { count } from "./words.js";

const $ = (id) => document.getElementById(id);
const form = $("make");
const SEEDS = 1_000_000; // random seeds are below: short enough to read aloud
const LOST = "the farm may have it all the same; press Render again, and it is not rendered twice";
// The page is served with SVD's defaults in its fields, except for those that a model has itself.
const NAMES = [...form.elements].map((field) => field.name).filter((name) => name && !["preset", "model", "seed", "input_reference"].includes(name));
const SVD = Object.fromEntries(NAMES.map((name) => [name, form.elements[name].value]));
const OWN = ["width", "height", "num_frames", "max_guidance_scale", "motion_bucket_id"]; // a model's own
const described = new Map(); // model -> its defaults
const touched = new Set(); // the names of fields that were filled in by hand
let extras = {}; // fields of the request for which the form has none

// Each request has its own idempotency key, so that sending it again gives the same job.
let sent = null; // {what, key}
let changed = () => {}; // called when a parameter has changed

export const randomSeed = () => String(crypto.getRandomValues(new Uint32Array(1))[0] % SEEDS);
export const has = (name) => name === "model" || name === "seed" || NAMES.includes(name);
export const whenChanged = (listener) => (changed = listener);
export const defaults = (model = form.elements.model.value) => ({ ...SVD, ...described.get(model) });
export const fit = () => form.elements.fit.value;
export const isDescribed = (model = form.elements.model.value) => described.has(model);
export const size = () => [Number(form.elements.width.value) || 16, Number(form.elements.height.value) || 9];

const randomKey = () => // crypto.randomUUID needs HTTPS
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (n) => n.toString(16).padStart(2, "0")).join("");

// Submit a job: a file and the fields of a request.
export async function submit(picture, fields) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  body.append("input_reference", picture, picture.name);
  const what = JSON.stringify([fields, picture.name, picture.size, picture.lastModified]);
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

// The fields of the request; or null, and the form shows what is wrong.
export function fields(hasPicture) {
  clearErrors();
  const faults = [...form.elements].filter((field) => field.willValidate && !field.validity.valid);
  for (const field of faults) tell(field.name, field.validity.patternMismatch ? field.title : limit(field));
  if (!hasPicture) {
    tell("input_reference", "Choose a picture first.");
    faults.unshift(form.elements.input_reference);
  }
  faults[0]?.focus();
  if (faults.length) return null;
  const own = defaults();
  const given = { ...extras, model: form.elements.model.value, seed: form.elements.seed.value || randomSeed() };
  for (const name of NAMES) {
    const { value } = form.elements[name];
    // The farm's own default for `fit` is another, and a tier has its own number of steps.
    const always = name === "fit" || (name === "num_inference_steps" && form.elements.tier.value !== "exact");
    if (value !== "" && (always || value !== String(own[name]))) given[name] = value;
  }
  return given;
}

function limit(field) {
  const { min, max, step, validity } = field;
  if (validity.rangeUnderflow || validity.rangeOverflow) return `Enter a number from ${min} to ${max}.`;
  if (validity.stepMismatch) return step === "8" ? "Enter a multiple of 8." : "Enter a whole number.";
  return field.validationMessage;
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
  for (const field of form.elements) field.removeAttribute("aria-invalid");
  for (const line of [...form.querySelectorAll(".error"), $("input_reference-error")]) line.textContent = "";
}

function tell(name, message) {
  const field = form.elements[name];
  const line = $(`${name}-error`) ?? (field?.closest?.(".field") && lineOf(field));
  if (!line) return false;
  line.textContent = message;
  field?.setAttribute?.("aria-invalid", "true");
  if (field?.closest?.("details")) field.closest("details").open = true;
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
  slider.addEventListener("input", () => {
    field.value = slider.value;
    touched.add(field.name);
    show();
  });
  field.before(slider);
}

// Fill in parameters; those that are not named keep their values. `more` has fields that the form lacks.
export function set(values, more = extras) {
  extras = more;
  for (const [name, value] of Object.entries(values)) {
    const field = form.elements[name];
    if (field && !(field.tagName === "SELECT" && ![...field.options].some((o) => o.value === String(value)))) field.value = value;
  }
  show();
}

function presets() {
  const [motion, fps, noise] = ["motion_bucket_id", "fps", "noise_aug_strength"].map((name) => Number(defaults()[name]));
  const usual = motion || 127;
  const balanced = { motion_bucket_id: usual, fps, noise_aug_strength: noise };
  return {
    subtle: { ...balanced, motion_bucket_id: Math.round(usual * 0.4) },
    balanced,
    strong: { ...balanced, motion_bucket_id: Math.round(usual * 1.7), noise_aug_strength: 2 * noise },
  };
}

// Bring what depends on the fields up to date: sliders, the preset, and the line that sums them up.
function show() {
  const value = (name) => form.elements[name].value;
  for (const field of form.querySelectorAll("[data-slide]")) field.previousElementSibling.value = field.value;
  const same = ([, values]) => Object.entries(values).every(([name, v]) => Number(value(name)) === v);
  const preset = Object.entries(presets()).find(same)?.[0];
  for (const radio of form.elements.preset) radio.checked = radio.value === preset;
  const tier = value("tier") === "exact" ? "" : form.elements.tier.selectedOptions[0].text.split(":")[0];
  $("set").textContent = [
    value("width") && `${value("width")} × ${value("height")}`, value("num_frames") && count(Number(value("num_frames")), "frame"),
    `${value("fps")} fps`, value("motion_bucket_id") && `motion ${value("motion_bucket_id")}`, count(Number(value("num_inference_steps")), "step"), tier, `seed ${value("seed")}`, ...Object.entries(extras).map(([name, of]) => `${name} ${of}`),
  ].filter(Boolean).join(" · ");
  changed();
}

function useTier() {
  form.elements.num_inference_steps.value = form.elements.tier.selectedOptions[0].dataset.steps ?? defaults().num_inference_steps;
  show();
}

// Show a model's own defaults, once the farm has told them, in the fields that nobody filled in.
export async function useModel() {
  const model = form.elements.model.value;
  if (!described.has(model)) {
    const told = await call(`v1/models/${model.split("/").map(encodeURIComponent).join("/")}`).catch(() => null);
    if (told?.defaults) described.set(model, told.defaults);
  }
  if (form.elements.model.value !== model || !described.has(model)) return;
  set(Object.fromEntries(OWN.filter((name) => !touched.has(name)).map((name) => [name, defaults(model)[name]])));
}

function anotherModel() {
  touched.clear();
  set(Object.fromEntries(OWN.map((name) => [name, ""])));
  return useModel();
}

export function prepare() {
  for (const field of form.querySelectorAll("[data-slide]")) addSlider(field);
  form.elements.seed.value = randomSeed();
  set(defaults());
  $("random").addEventListener("click", () => set({ seed: randomSeed() }));
  $("reset").addEventListener("click", () => {
    touched.clear();
    set(defaults(), {});
  });
  for (const radio of form.elements.preset) radio.addEventListener("change", () => set(presets()[radio.value]));
  form.elements.model.addEventListener("change", anotherModel);
  form.elements.tier.addEventListener("change", useTier);
  form.addEventListener("input", (event) => {
    if (["preset", "tier", "model"].includes(event.target.name)) return;
    touched.add(event.target.name);
    show();
  });
}

export async function offer(models) {
  form.elements.model.replaceChildren(...models.map((name) => new Option(name, name)));
  $("model-field").hidden = models.length < 2;
  await useModel();
}
