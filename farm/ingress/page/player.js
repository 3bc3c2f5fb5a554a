// Plays a finished clip in the frame: frame by frame, beside its picture, and to be saved.

import { ApiError, address, content, converted, fetched, fitted, keys, media } from "./api.js";
import { facts } from "./words.js";

const $ = (id) => document.getElementById(id);
const player = $("video");
const KEPT_MS = 60_000; // a download has begun by then
const still = matchMedia("(prefers-reduced-motion: reduce)");
let current = null; // {video, index}
let failed = () => {}; // called with an ApiError

export const whenFailed = (listener) => (failed = listener);

export async function show(video, index) {
  const mine = (current = { video, index });
  drawTakes();
  const [source, poster] = await Promise.all([media(content(video.id, "video", index)), media(content(video.id, "thumbnail", index))]);
  if (current !== mine) return false;
  Object.assign(player, { poster, src: source, hidden: false, autoplay: !still.matches });
  player.setAttribute("aria-label", `The clip: ${facts(video)}`);
  Object.assign($("scrub"), { max: video.num_frames - 1, value: 0 });
  $("transport").hidden = false;
  tell();
  return true;
}

export function hide() {
  current = null;
  compare(false);
  for (const id of ["transport", "takes", "original", "split"]) $(id).hidden = true;
  player.hidden = true;
  player.removeAttribute("src");
  player.removeAttribute("poster");
  player.load(); // otherwise the previous clip goes on playing
}

// The frame that is shown, from 0 on.
const frame = () => Math.min(current.video.num_frames - 1, Math.floor(player.currentTime * current.video.fps + 0.01));

function tell() {
  if (!current) return;
  const of = `of ${current.video.num_frames}`;
  if (document.activeElement !== $("scrub") || !player.paused) $("scrub").value = frame();
  $("at").textContent = `${frame() + 1} ${of}`;
  $("scrub").setAttribute("aria-valuetext", `frame ${frame() + 1} ${of}`);
  $("play").textContent = player.paused ? "Play" : "Pause";
  $("play").setAttribute("aria-label", player.paused ? "Play the clip" : "Pause the clip");
}

function goTo(n) {
  player.pause();
  player.currentTime = (n + 0.5) / current.video.fps;
  $("at").textContent = `${n + 1} of ${current.video.num_frames}`;
}

const toggle = () => (player.paused ? player.play() : player.pause());

async function compare(on) {
  $("compare").setAttribute("aria-pressed", String(on));
  for (const id of ["original", "split"]) $(id).hidden = !on;
  if (!on) return;
  const mine = current;
  try {
    const url = await media(fitted(current.video.id));
    if (current === mine) $("original").src = url;
  } catch (error) {
    if (current === mine) compare(false);
    throw error;
  }
  divide();
}

const divide = () => $("frame").style.setProperty("--split", `${$("split").value}%`);

// The clips of a job that has several.
function drawTakes() {
  const { video, index } = current;
  const list = $("takes");
  list.hidden = video.num_videos < 2;
  if (list.hidden) return list.replaceChildren();
  if (list.dataset.of !== video.id) {
    list.dataset.of = video.id;
    list.replaceChildren(...Array.from({ length: video.num_videos }, (_, n) => take(video, n)));
  }
  [...list.children].forEach((item, n) => item.firstElementChild.setAttribute("aria-current", String(n === index)));
}

function take(video, n) {
  const button = Object.assign(document.createElement("button"), { type: "button" });
  const seed = BigInt(video.params?.seed ?? video.seed) + BigInt(n);
  const image = Object.assign(document.createElement("img"), { alt: `Seed ${seed}` });
  button.append(image);
  button.addEventListener("click", () => show(video, n).catch(failed));
  media(content(video.id, "thumbnail", n)).then((url) => (image.src = url), () => {});
  const item = document.createElement("li");
  item.append(button);
  return item;
}

// Save the clip in a format, or the frame that is shown.
async function save(format) {
  const { video, index } = current;
  const stem = `${video.name || video.id}-seed${video.seed}${video.num_videos > 1 ? `-${index + 1}` : ""}`;
  if (format === "png") return savePng(`${stem}-frame${frame() + 1}.png`);
  const path = format === "mp4" ? content(video.id, "video", index) : converted(video.id, format, index);
  const url = keys.get() ? URL.createObjectURL(await fetched(path)) : address(path);
  return offer(url, `${stem}.${format}`);
}

async function savePng(name) {
  const canvas = Object.assign(document.createElement("canvas"), { width: player.videoWidth, height: player.videoHeight });
  canvas.getContext("2d").drawImage(player, 0, 0);
  const data = await new Promise((done) => canvas.toBlob(done));
  offer(URL.createObjectURL(data), name);
}

function offer(url, name) {
  const link = Object.assign(document.createElement("a"), { href: url, download: name });
  link.click();
  if (url.startsWith("blob:")) setTimeout(() => URL.revokeObjectURL(url), KEPT_MS);
}

export function prepare() {
  for (const name of ["timeupdate", "play", "pause", "loadeddata", "seeked"]) player.addEventListener(name, tell);
  const everyFrame = () => {
    tell();
    player.requestVideoFrameCallback?.(everyFrame);
  };
  player.requestVideoFrameCallback?.(everyFrame);
  player.addEventListener("click", toggle);
  player.addEventListener("error", () => {
    if (player.getAttribute("src")) failed(new ApiError("The browser cannot play the clip. Download may still work."));
  });
  $("play").addEventListener("click", toggle);
  $("scrub").addEventListener("input", () => goTo(Number($("scrub").value)));
  $("compare").addEventListener("click", () => compare($("compare").getAttribute("aria-pressed") !== "true").catch(failed));
  $("split").addEventListener("input", divide);
  $("full").hidden = !document.fullscreenEnabled;
  $("full").addEventListener("click", () => $("frame").requestFullscreen().catch(() => {}));
  $("download").addEventListener("click", (event) => {
    const { format } = event.target.dataset;
    if (!format) return;
    event.preventDefault();
    $("download").open = false;
    save(format).catch(failed);
  });
}
