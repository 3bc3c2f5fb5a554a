// The page: connects its parts with each other.

import { call, keys, pictureOf } from "./api.js";
import * as form from "./form.js";
import * as gallery from "./gallery.js";
import * as operator from "./operator.js";
import * as picture from "./picture.js";
import { fieldsOf, textOf } from "./reuse.js";
import * as samples from "./samples.js";
import * as stage from "./stage.js";
import { sentence, tab } from "./words.js";

const $ = (id) => document.getElementById(id);
const LOOK_MS = 3000; // between two refreshes of the clips under way, and of the farm
let sent = null; // the id of the job sent last, until it is shown

function notice(error) {
  if (error?.status === 401) return; // the key's form shows it
  $("notice").textContent = error ? sentence(error.message) : "";
  $("notice").hidden = !error;
}

async function start() {
  try {
    const models = await call("v1/models");
    form.offer(models.data.map((model) => model.id)).catch(notice);
  } catch (error) {
    notice(error);
    if (error.status === 0 || error.status >= 500) setTimeout(start, LOOK_MS);
    return;
  }
  notice(null);
  $("key-form").hidden = true;
  for (const id of ["nav", "main"]) $(id).hidden = false;
  $("forget").hidden = !keys.get();
  look();
  navigate();
}

// One loop at a time: it refreshes clips while some are under way, and the farm if the key allows it.
let looking = 0;
let lost = false; // whether the notice is of this loop
async function look() {
  const mine = ++looking;
  let open = true;
  let operates = true;
  while (looking === mine && (open || operates)) {
    if (!document.hidden || open) {
      try {
        if (open) open = await gallery.refresh();
        if (operates && !document.hidden) operates = await operator.refresh();
        if (!form.isDescribed()) form.useModel();
        gallery.mark(stage.shown()?.id);
        document.title = tab(stage.shown(), gallery.open());
        if (lost) notice(null);
        lost = false;
      } catch (error) {
        notice(error);
        lost = true;
        if (error.status === 401) return;
      }
    }
    await new Promise((done) => setTimeout(done, LOOK_MS));
  }
}

function named() {
  const found = /^#video\/(.+)$/.exec(location.hash)?.[1];
  try {
    return found && decodeURIComponent(found);
  } catch {
    return null; // a stray percent sign
  }
}

function navigate() {
  const id = named();
  if (!id) return location.hash ? undefined : compose(); // another hash is a part of the page
  gallery.mark(id);
  stage.follow(id);
  return reveal();
}

// Bring the frame into view, unless it is.
function reveal() {
  const { top, bottom } = $("frame").getBoundingClientRect();
  if (top < 0 || bottom > innerHeight) $("stage").scrollIntoView({ block: "start" });
}

// Show what is to be rendered next.
function compose() {
  stage.leave();
  gallery.mark(null);
  if (picture.chosen()) stage.shape(...form.size());
  else samples.show();
}

function leaveClip() {
  if (location.hash) history.pushState(null, "", location.pathname + location.search);
  compose();
}

// Send requests for clips; the last one is shown.
async function render(requests) {
  $("render").disabled = true;
  $("render").textContent = "Sending…";
  try {
    for (const { file, fields } of requests) sent = (await form.submit(file, fields)).id;
    if (location.hash === gallery.hash(sent)) navigate();
    else location.hash = gallery.hash(sent);
    look();
  } finally {
    $("render").disabled = false;
    $("render").textContent = "Render";
  }
}

async function submitted(event) {
  event?.preventDefault();
  const fields = form.fields(Boolean(picture.chosen()));
  if (!fields) return;
  try {
    await render([{ file: await picture.file(...form.size()), fields }]);
  } catch (error) {
    if (stage.shown()) leaveClip(); // the error is said beside the picture and its fields
    form.fail(error);
  }
}

// Render the clip on the stage again, with other fields.
async function again(event, change) {
  const button = event.currentTarget;
  if (button.disabled) return;
  button.disabled = true;
  try {
    const video = stage.shown();
    const file = await pictureOf(video);
    await render([{ file, fields: { ...fieldsOf(video), ...change } }]);
  } catch (error) {
    stage.fail(error);
  } finally {
    button.disabled = false;
  }
}

async function useSettings() {
  try {
    const video = stage.shown();
    const file = await pictureOf(video);
    form.set({ model: video.model });
    await form.useModel();
    const known = Object.entries(video.params).filter(([name, value]) => value !== null && form.has(name));
    const more = Object.entries(fieldsOf(video)).filter(([name]) => !form.has(name) && name !== "num_videos");
    form.set(Object.fromEntries(known), Object.fromEntries(more));
    await picture.take(file);
  } catch (error) {
    stage.fail(error);
  }
}

async function copy(event) {
  const way = event.target.dataset.copy;
  if (!way) return;
  $("copy").open = false;
  const text = textOf(way, stage.shown());
  try {
    await navigator.clipboard.writeText(text);
    $("said").textContent = "Copied.";
    $("line").textContent = "copied";
  } catch {
    prompt("Copy this:", text); // the clipboard needs HTTPS, or this machine
  }
}

function tookPicture({ file, image, url }) {
  form.clearErrors();
  $("chosen").hidden = false;
  $("chosen-name").textContent = file.name;
  $("chosen-size").textContent = image ? `${image.naturalWidth} × ${image.naturalHeight}` : "";
  $("chosen-image").hidden = !image;
  if (image) $("chosen-image").src = url;
  leaveClip();
}

function changed(video) {
  if (video.id === sent) reveal(); // only now it has its full size
  sent = null;
  document.title = tab(video, gallery.open());
  look();
}

function deleted(id) {
  const here = stage.shown()?.id === id;
  gallery.forget(id);
  if (!here) return;
  history.replaceState(null, "", location.pathname + location.search);
  compose();
  $("clips-title").focus();
}

function askForKey(message) {
  looking += 1;
  stage.leave();
  for (const id of ["nav", "main"]) $(id).hidden = true;
  $("key-form").hidden = false;
  $("key-error").textContent = keys.get() ? sentence(message) : "";
  $("key").focus();
}

function enterKey(event) {
  event.preventDefault();
  const key = $("key").value.trim();
  if (!key) return;
  keys.set(key, $("remember").checked);
  $("key").value = "";
  start();
}

keys.refused = askForKey;
stage.whenChanged(changed);
stage.prepare(deleted);
gallery.prepare(notice, deleted);
form.prepare();
form.whenChanged(() => $("stage").dataset.mode === "picture" && compose());
picture.whenTaken(tookPicture);
picture.prepare(form.fit);
samples.prepare(submitted);
$("make").addEventListener("submit", submitted);
$("again").addEventListener("click", (event) => again(event, { seed: form.randomSeed(), num_videos: 1 }));
$("four").addEventListener("click", (event) => again(event, { seed: form.randomSeed(), num_videos: 4 }));
$("retry").addEventListener("click", (event) => again(event, {}));
$("use").addEventListener("click", useSettings);
$("new").addEventListener("click", leaveClip);
$("copy").addEventListener("click", copy);
$("key-form").addEventListener("submit", enterKey);
$("forget").addEventListener("click", () => {
  keys.forget();
  location.reload();
});
addEventListener("hashchange", navigate);
addEventListener("popstate", () => location.hash || compose());
start();
