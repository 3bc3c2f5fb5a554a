// The frame and what is said below it: a sample, the picture to render, or a clip and its progress.

import { call, events, fitted, media, video as path } from "./api.js";
import * as picture from "./picture.js";
import * as player from "./player.js";
import * as words from "./words.js";

const $ = (id) => document.getElementById(id);
const POLL_MS = 1000;
const LONGEST_MS = 15_000; // the longest pause between retries while the farm does not answer
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const still = matchMedia("(prefers-reduced-motion: reduce)");

let current = null; // the video that is shown
let turn = 0; // counts calls of `follow`: an older one ends when a new one starts
let previews = new AbortController(); // of the current clip
let answered = Promise.resolve(); // settles with the last action on it
let changed = () => {}; // called with a video that is new or has changed its state

export const shown = () => current;
export const whenChanged = (listener) => (changed = listener);
export const fail = (error) => ($("stage-error").textContent = error.message);

// Follow a video until it has ended.
export async function follow(id) {
  begin("clip");
  const mine = turn;
  let pause = POLL_MS;
  while (turn === mine) {
    const before = current;
    try {
      const video = await call(path(id));
      if (turn !== mine) return;
      if (current === before) show(video); // otherwise the answer to a click is newer
      if (!words.isOpen(current)) return;
      pause = POLL_MS;
      $("stage-error").textContent = "";
    } catch (error) {
      if (turn !== mine) return;
      $("told").hidden = false;
      fail(error);
      if (error.status === 0) $("line").textContent = "reconnecting…";
      if (error.status >= 400 && error.status < 500 && error.status !== 429) {
        $("new").hidden = false;
        return;
      }
      pause = Math.min(2 * pause, LONGEST_MS);
    }
    await wait(pause);
  }
}

// Show no clip, but the picture that is to be rendered; without one, a sample.
export function leave() {
  const chosen = picture.chosen();
  begin(chosen ? "picture" : "empty");
  $("told").hidden = true;
  $("tag").hidden = Boolean(chosen?.image) || Boolean(chosen) === false;
  if (chosen && !chosen.image) $("tag").textContent = "Your browser cannot show this picture. The farm may still read it.";
  if (chosen) picture.show();
}

// The frame's shape: one from the picture to the clip.
export function shape(width, height) {
  $("frame").style.setProperty("--shape", `${width} / ${height}`);
  $("frame").style.setProperty("--ratio", width / height);
}

function begin(mode) {
  turn += 1;
  current = null;
  answered = Promise.resolve();
  previews.abort();
  previews = new AbortController();
  $("stage").dataset.mode = mode;
  for (const id of ["backdrop", "tag"]) $(id).hidden = true;
  player.hide();
  for (const button of $("told").querySelectorAll(".actions > *")) {
    Object.assign(button, { hidden: true, ariaDisabled: null });
  }
  for (const line of ["stage-error", "line", "facts"]) $(line).textContent = "";
  $("stage-title").textContent = "Clip";
  $("progress").hidden = true;
  delete $("stage").dataset.state;
}

function show(video) {
  const before = current;
  current = video;
  $("told").hidden = false;
  $("stage").dataset.state = video.state;
  $("stage-title").textContent = words.title(video);
  $("line").textContent = words.progress(video);
  $("facts").textContent = words.facts(video);
  $("progress").hidden = !words.isOpen(video);
  const before_ = before?.id === video.id ? $("progress").value : 0;
  $("progress").value = Math.max(before_, video.progress); // an estimate may be corrected downward
  shape(...video.size.split("x").map(Number));
  showActions(video);
  if (!before && video.state !== "completed") begun(video);
  if (before?.state === video.state) return;
  $("said").textContent = `${words.title(video)}. ${words.isOpen(video) ? "" : words.progress(video)}`;
  if (video.state === "completed") play(video);
  changed(video);
}

// Until a clip is there, its picture is shown, and then what the model foresees.
async function begun(video) {
  const { signal } = previews;
  const url = await media(fitted(video.id)).catch(() => "");
  if (signal.aborted || !url || current?.state === "completed") return;
  Object.assign($("backdrop"), { src: url, className: "", hidden: false });
  $("backdrop").style.objectPosition = "";
  if (words.isOpen(video) && !still.matches) preview(video.id, signal);
}

async function preview(id, signal) {
  let [after, seed] = ["", null];
  while (!signal.aborted && words.isOpen(current)) {
    try {
      for await (const event of events(path(id, "/events"), after, signal)) {
        after = event.id;
        if (!event.data.image || !words.isOpen(current)) continue;
        seed ??= event.data.seed; // of several clips, one is shown
        if (event.data.seed !== seed) continue;
        $("backdrop").src = event.data.image;
        Object.assign($("tag"), { textContent: "Preview", hidden: false });
      }
    } catch (error) {
      if (signal.aborted || (error.status >= 400 && error.status < 500)) return;
    }
    await wait(POLL_MS);
  }
}

async function play(video) {
  try {
    if (await player.show(video, 0)) for (const id of ["backdrop", "tag"]) $(id).hidden = true;
  } catch (error) {
    fail(error);
    $("download").hidden = true;
  }
}

function showActions(video) {
  const open = words.isOpen(video) && video.state !== "cancelling";
  const ended = !words.isOpen(video);
  const done = video.state === "completed";
  const wanted = {
    cancel: open,
    pause: open && video.state !== "paused",
    resume: video.state === "paused",
    download: done,
    again: done && Boolean(video.params),
    four: done && Boolean(video.params),
    retry: ended && !done && Boolean(video.params),
    use: Boolean(video.params),
    copy: Boolean(video.params),
    new: true,
    delete: ended,
  };
  for (const [id, there] of Object.entries(wanted)) {
    if (!there && $(id).contains(document.activeElement)) $("stage-title").focus();
    $(id).hidden = !there;
  }
}

// One at a time, in the order of the clicks: concurrent requests could overtake each other.
// Meanwhile the button is not `disabled`, since it would lose the focus.
function ask(button, action, options = { method: "POST" }) {
  const id = current?.id;
  if (!id || button.ariaDisabled) return null;
  button.ariaDisabled = "true";
  $("stage-error").textContent = "";
  answered = answered
    .then(() => send(id, button, action, options))
    .finally(() => (button.ariaDisabled = null));
  return answered;
}

async function send(id, button, action, options) {
  const here = () => current?.id === id;
  if (here() && button.hidden) return null; // the previous answer took the action away
  try {
    const answer = await call(path(id, action), options);
    if (here() && answer.object === "video") show(answer);
    return answer;
  } catch (error) {
    if (here()) fail(error);
    return null;
  }
}

export function prepare(deleted) {
  player.whenFailed(fail);
  player.prepare();
  for (const name of ["cancel", "pause", "resume"]) {
    $(name).addEventListener("click", (event) => ask(event.currentTarget, `/${name}`));
  }
  $("delete").addEventListener("click", async (event) => {
    const button = event.currentTarget;
    if (!confirm("Delete this clip permanently?")) return;
    const id = current.id;
    if (await ask(button, "", { method: "DELETE" })) deleted(id);
  });
  // An open menu closes when something else is clicked, and with Escape.
  const close = (event) => {
    for (const menu of document.querySelectorAll(".menu[open]")) if (!menu.contains(event.target) || event.key) menu.open = false;
  };
  document.addEventListener("click", close);
  document.addEventListener("keydown", (event) => event.key === "Escape" && close(event));
}
