// Past clips, newest first.

import { call, media } from "./api.js";
import * as words from "./words.js";

const PAGE = 24;
const list = document.getElementById("gallery");
const more = document.getElementById("older");
const cards = new Map(); // id -> card
let newest = []; // videos of the first page, which is refreshed
let older = []; // videos of the following pages

export const hash = (id) => `#video/${encodeURIComponent(id)}`;

// Resolves to whether any clip is under way.
export async function refresh() {
  const page = await call(`v1/videos?limit=${PAGE}&order=desc`);
  const ids = new Set(page.data.map((video) => video.id));
  const last = page.data.at(-1)?.created_at ?? 0;
  // Keep clips that newer ones pushed off the first page, but not deleted ones.
  const pushed = newest.filter((v) => older.length && !ids.has(v.id) && v.created_at <= last);
  older = [...pushed, ...older].filter((video) => !ids.has(video.id));
  newest = page.data;
  if (!older.length) more.hidden = !page.has_more;
  draw();
  return newest.some(words.isOpen);
}

async function showOlder() {
  const last = older.at(-1) ?? newest.at(-1);
  const page = await call(`v1/videos?limit=${PAGE}&order=desc&after=${encodeURIComponent(last.id)}`);
  older = [...older, ...page.data];
  more.hidden = !page.has_more;
  draw();
  cards.get(page.data[0]?.id)?.querySelector("a").focus();
}

export function mark(id) {
  for (const [name, card] of cards) {
    if (name === id) card.querySelector("a").setAttribute("aria-current", "true");
    else card.querySelector("a").removeAttribute("aria-current");
  }
}

export function forget(id) {
  newest = newest.filter((video) => video.id !== id);
  older = older.filter((video) => video.id !== id);
  draw();
}

function draw() {
  const videos = [...newest, ...older];
  const ids = new Set(videos.map((video) => video.id));
  for (const [id, card] of cards) {
    if (ids.has(id)) continue;
    card.remove();
    cards.delete(id);
  }
  videos.forEach((video, place) => {
    if (!cards.has(video.id)) cards.set(video.id, newCard(video));
    const card = cards.get(video.id);
    if (list.children[place] !== card) list.insertBefore(card, list.children[place] ?? null);
    fill(card, video);
  });
  document.getElementById("no-clips").hidden = videos.length > 0;
}

function newCard(video) {
  const card = document.createElement("li");
  const link = Object.assign(document.createElement("a"), { href: hash(video.id) });
  const well = Object.assign(document.createElement("span"), { className: "well" });
  const title = document.createElement("strong");
  const told = Object.assign(document.createElement("span"), { className: "facts" });
  link.append(well, title, told);
  card.append(link);
  return card;
}

function fill(card, video) {
  const [well, title, told] = card.firstElementChild.children;
  const running = video.state === "running" ? ` ${video.progress}%` : "";
  if (video.state !== "completed") put(well, words.title(video) + running);
  put(title, words.when(video.created_at));
  const failed = video.state === "failed" ? video.error?.message : "";
  put(told, failed || `${video.size.replace("x", " × ")} · ${words.count(video.num_frames, "frame")} · seed ${video.seed}`);
  if (card.dataset.state === video.state) return;
  card.dataset.state = video.state;
  if (video.state === "completed") picture(well, video);
}

const put = (element, text) => element.textContent === text || (element.textContent = text);

async function picture(well, video) {
  const image = Object.assign(document.createElement("img"), { alt: "", loading: "lazy" });
  image.src = await media(video.id, "thumbnail").catch(() => "");
  if (image.getAttribute("src")) well.replaceChildren(image);
}

export function prepare(failed) {
  more.addEventListener("click", () => {
    more.disabled = true;
    showOlder().catch(failed).finally(() => (more.disabled = false));
  });
}
