// The current clip: its progress, then the clip itself.

import { call, events, keys, media, video as path } from "./api.js";
import * as words from "./words.js";

const $ = (id) => document.getElementById(id);
const player = $("video");
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

// Follow a video until it has ended. `asked` is its request, if this page sent it.
export async function follow(id, asked) {
  const mine = ++turn;
  let pause = POLL_MS;
  begin(asked);
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
      $("stage-error").textContent = error.message;
      if (error.status >= 400 && error.status < 500 && error.status !== 429) return;
      pause = Math.min(2 * pause, LONGEST_MS);
    }
    await wait(pause);
  }
}

export function leave() {
  turn += 1;
  begin(null);
  for (const id of ["told", "backdrop"]) $(id).hidden = true;
  $("empty").hidden = false;
}

function begin(asked) {
  current = null;
  answered = Promise.resolve();
  previews.abort();
  previews = new AbortController();
  $("empty").hidden = true;
  $("backdrop").hidden = !asked;
  if (asked) Object.assign($("backdrop"), { src: asked.shown, className: asked.fields.fit });
  player.hidden = true;
  player.removeAttribute("src");
  player.removeAttribute("poster");
  player.load(); // otherwise the previous clip goes on playing
  for (const button of $("told").querySelectorAll(".actions > *")) {
    Object.assign(button, { hidden: true, ariaDisabled: null });
  }
  for (const line of ["stage-error", "line", "facts"]) $(line).textContent = "";
  $("stage-title").textContent = "Clip";
  $("progress").hidden = true;
  $("index").replaceChildren();
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
  $("progress").value = video.progress;
  $("frame").style.setProperty("--shape", video.size.replace("x", " / "));
  showActions(video);
  if (!before && words.isOpen(video) && !still.matches) preview(video.id, previews.signal);
  if (before?.state === video.state) return;
  $("said").textContent = `${words.title(video)}. ${words.isOpen(video) ? "" : words.progress(video)}`;
  if (video.state === "completed") play(video);
  changed(video);
}

// Show previews of the clip in place of the picture.
async function preview(id, signal) {
  let after = "";
  while (!signal.aborted && words.isOpen(current)) {
    try {
      for await (const event of events(path(id, "/events"), after, signal)) {
        after = event.id;
        if (!event.data.image || !words.isOpen(current)) continue;
        Object.assign($("backdrop"), { src: event.data.image, className: "foreseen", hidden: false });
      }
    } catch (error) {
      if (signal.aborted || (error.status >= 400 && error.status < 500)) return;
    }
    await wait(POLL_MS);
  }
}

function showActions(video) {
  const open = words.isOpen(video) && video.state !== "cancelling";
  const wanted = {
    cancel: open,
    pause: open && video.state !== "paused",
    resume: video.state === "paused",
    delete: !words.isOpen(video),
    download: video.state === "completed",
    which: video.state === "completed" && video.num_videos > 1,
  };
  for (const [id, there] of Object.entries(wanted)) {
    if (!there && $(id) === document.activeElement) $("stage-title").focus();
    $(id).hidden = !there;
  }
}

const chosen = (video) => (video.num_videos > 1 ? Number($("index").value) : 0);

async function play(video) {
  if (video.num_videos > 1 && $("index").length !== video.num_videos) {
    const numbers = Array.from({ length: video.num_videos }, (_, n) => new Option(n + 1, n));
    $("index").replaceChildren(...numbers);
  }
  const mine = turn;
  const index = chosen(video);
  try {
    const [source, poster] = await Promise.all([media(video.id, "video", index), media(video.id, "thumbnail", index)]);
    if (turn !== mine || chosen(video) !== index) return;
    Object.assign(player, { poster, src: source, hidden: false, autoplay: !still.matches });
    player.setAttribute("aria-label", `The clip: ${words.facts(video)}`);
    $("backdrop").hidden = true;
    const link = $("download");
    link.href = source;
    link.setAttribute("download", `${video.id}${video.num_videos > 1 ? `-${index}` : ""}.mp4`);
  } catch (error) {
    $("stage-error").textContent = error.message;
    $("download").hidden = true;
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
    if (here()) $("stage-error").textContent = error.message;
    return null;
  }
}

export function prepare(deleted) {
  for (const name of ["cancel", "pause", "resume"]) {
    $(name).addEventListener("click", (event) => ask(event.currentTarget, `/${name}`));
  }
  $("delete").addEventListener("click", async (event) => {
    const button = event.currentTarget;
    if (!confirm("Delete this clip for good?")) return;
    const id = current.id;
    if (await ask(button, "", { method: "DELETE" })) deleted(id);
  });
  $("index").addEventListener("change", () => play(current));
  player.addEventListener("error", () => {
    if (!player.getAttribute("src")) return;
    $("stage-error").textContent = keys.get()
      ? "The browser cannot play the clip."
      : "The browser cannot play the clip; Download may still work.";
  });
}
