// The page: connects its parts with each other.

import { call, keys } from "./api.js";
import * as form from "./form.js";
import * as gallery from "./gallery.js";
import * as operator from "./operator.js";
import * as stage from "./stage.js";
import { isOpen } from "./words.js";

const $ = (id) => document.getElementById(id);
const LOOK_MS = 3000; // between two refreshes of the clips under way, and of the farm
const asked = new Map(); // id -> the request, for those that this page sent since it was loaded
let sent = null; // the id of the job sent last, until it is shown

function notice(error) {
  if (error?.status === 401) return; // the key's form shows it
  $("notice").textContent = error ? error.message : "";
  $("notice").hidden = !error;
}

async function start() {
  try {
    const models = await call("v1/models");
    form.offer(models.data.map((model) => model.id));
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
async function look() {
  const mine = ++looking;
  let open = true;
  let operates = true;
  while (looking === mine && (open || operates)) {
    if (!document.hidden) {
      try {
        if (open) open = await gallery.refresh();
        if (operates) operates = await operator.refresh();
        gallery.mark(stage.shown()?.id);
        notice(null);
      } catch (error) {
        notice(error);
        if (error.status === 401) return;
      }
    }
    await new Promise((done) => setTimeout(done, LOOK_MS));
  }
}

function navigate() {
  const found = /^#video\/(.+)$/.exec(location.hash);
  if (!found) return;
  const id = decodeURIComponent(found[1]);
  gallery.mark(id);
  stage.follow(id, asked.get(id));
}

async function render(request) {
  $("render").disabled = true;
  $("render").textContent = "Sending…";
  try {
    const video = await form.submit(request);
    request.shown = URL.createObjectURL(request.picture);
    asked.set(video.id, request);
    sent = video.id;
    location.hash = gallery.hash(video.id);
  } catch (error) {
    form.fail(error);
  } finally {
    $("render").disabled = false;
    $("render").textContent = "Render";
  }
}

function submitted(event) {
  event.preventDefault();
  const request = form.asked();
  if (request) render(request);
}

function again() {
  const before = asked.get(stage.shown().id);
  const seed = form.randomSeed();
  $("seed").value = seed;
  render({ picture: before.picture, fields: { ...before.fields, seed } });
}

function changed(video) {
  if (video.id === sent) $("stage").scrollIntoView({ block: "nearest" }); // only now it has its full size
  sent = null;
  $("again").hidden = !asked.has(video.id) || isOpen(video);
  look();
}

function deleted(id) {
  URL.revokeObjectURL(asked.get(id)?.shown ?? "");
  asked.delete(id);
  history.replaceState(null, "", location.pathname + location.search);
  stage.leave();
  gallery.forget(id);
  $("clips-title").focus();
}

function askForKey(message) {
  looking += 1;
  stage.leave();
  for (const id of ["nav", "main"]) $(id).hidden = true;
  $("key-form").hidden = false;
  $("key-error").textContent = keys.get() ? message : "";
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
gallery.prepare(notice);
form.prepare();
$("make").addEventListener("submit", submitted);
$("again").addEventListener("click", again);
$("key-form").addEventListener("submit", enterKey);
$("forget").addEventListener("click", () => {
  keys.forget();
  location.reload();
});
addEventListener("hashchange", navigate);
start();
