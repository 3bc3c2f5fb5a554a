// Past clips, newest first: in their own shape, playing while pointed at, found by name.

import { call, content, fitted, media, video as path } from "./api.js";
import * as words from "./words.js";

const $ = (id) => document.getElementById(id);
const PAGE = 24;
const list = $("gallery");
const cards = new Map(); // id -> card
const picked = new Set(); // ids of the clips that are selected
const still = matchMedia("(prefers-reduced-motion: reduce)");
let newest = []; // videos of the first page, which is refreshed
let older = []; // videos of the following pages
let told = () => {}; // called with an error
let gone = () => {}; // called with the id of a video that was deleted

export const hash = (id) => `#video/${encodeURIComponent(id)}`;
export const open = () => [...newest, ...older].filter(words.isOpen).length;

// Resolves to whether any clip is under way.
export async function refresh() {
  const page = await call(`v1/videos?limit=${PAGE}&order=desc`);
  const ids = new Set(page.data.map((video) => video.id));
  const last = page.data.at(-1)?.created_at ?? 0;
  // Keep clips that newer ones pushed off the first page, but not deleted ones.
  const pushed = newest.filter((v) => older.length && !ids.has(v.id) && v.created_at <= last);
  older = [...pushed, ...older].filter((video) => !ids.has(video.id));
  newest = page.data;
  if (!older.length) $("older").hidden = !page.has_more;
  draw();
  return newest.some(words.isOpen);
}

async function showOlder() {
  const last = older.at(-1) ?? newest.at(-1);
  const page = await call(`v1/videos?limit=${PAGE}&order=desc&after=${encodeURIComponent(last.id)}`);
  older = [...older, ...page.data];
  $("older").hidden = !page.has_more;
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
  picked.delete(id);
  draw();
}

function wanted(video) {
  const filter = $("filter").value;
  const state = { open: words.isOpen(video), failed: ["failed", "cancelled"].includes(video.state), all: true };
  const name = $("search").value.trim().toLowerCase();
  return (state[filter] ?? video.state === filter) && (video.name || video.id).toLowerCase().includes(name);
}

function draw() {
  const all = [...newest, ...older];
  const videos = all.filter(wanted);
  const ids = new Set(videos.map((video) => video.id));
  for (const [id, card] of cards) {
    if (ids.has(id)) continue;
    picked.delete(id); // what is not seen is not selected
    card.remove();
    cards.delete(id);
  }
  videos.forEach((video, place) => {
    if (!cards.has(video.id)) cards.set(video.id, newCard(video));
    const card = cards.get(video.id);
    if (list.children[place] !== card) list.insertBefore(card, list.children[place] ?? null);
    fill(card, video);
  });
  $("tools").hidden = !all.length;
  $("no-clips").hidden = videos.length > 0;
  $("no-clips").textContent = all.length ? "No matching clips." : "Your clips will appear here.";
  drawPicked();
}

function newCard(video) {
  const card = document.createElement("li");
  const link = Object.assign(document.createElement("a"), { href: hash(video.id) });
  const well = Object.assign(document.createElement("span"), { className: "well" });
  well.style.setProperty("--shape", video.size.replace("x", " / "));
  const image = Object.assign(document.createElement("img"), { alt: "", hidden: true });
  const pill = Object.assign(document.createElement("span"), { className: "pill" });
  well.append(image, pill);
  const title = document.createElement("strong");
  const facts = Object.assign(document.createElement("span"), { className: "facts" });
  link.append(well, title, facts);
  const pick = Object.assign(document.createElement("input"), { type: "checkbox", className: "pick" });
  pick.addEventListener("change", () => {
    if (pick.checked) picked.add(video.id);
    else picked.delete(video.id);
    drawPicked();
  });
  card.append(link, pick);
  link.addEventListener("pointerenter", () => playIn(card, video.id));
  link.addEventListener("pointerleave", () => card.querySelector("video")?.remove());
  return card;
}

function fill(card, video) {
  const [well, title, facts] = card.firstElementChild.children;
  const pill = well.querySelector(".pill");
  const running = video.state === "running" ? ` ${video.progress}%` : "";
  put(pill, words.title(video) + running);
  pill.hidden = video.state === "completed";
  put(title, video.name || words.when(video.created_at));
  const failed = video.state === "failed" ? words.sentence(video.error?.message) : "";
  put(facts, failed || [video.name && words.when(video.created_at), video.num_videos > 1 && words.count(video.num_videos, "clip"), `seed ${video.seed}`].filter(Boolean).join(" · "));
  card.lastElementChild.setAttribute("aria-label", `Select ${video.name || video.id}, seed ${video.seed}`);
  if (card.dataset.state === video.state) return;
  card.dataset.state = video.state;
  draws(well.querySelector("img"), video);
}

const put = (element, text) => element.textContent === text || (element.textContent = text);

// A finished clip's thumbnail, and until then its picture.
async function draws(image, video) {
  const path = video.state === "completed" ? content(video.id, "thumbnail") : fitted(video.id);
  const url = await media(path).catch(() => "");
  if (url) Object.assign(image, { src: url, hidden: false });
}

async function playIn(card, id) {
  if (card.dataset.state !== "completed" || still.matches || card.querySelector("video")) return;
  const url = await media(content(id, "video")).catch(() => "");
  if (!url || !card.matches(":hover") || card.querySelector("video")) return;
  const video = Object.assign(document.createElement("video"), { src: url, muted: true, loop: true, autoplay: true, playsInline: true });
  card.querySelector(".well").append(video);
}

function drawPicked() {
  const selecting = $("select").getAttribute("aria-pressed") === "true";
  for (const [id, card] of cards) {
    Object.assign(card.lastElementChild, { hidden: !selecting, checked: picked.has(id) });
  }
  $("delete-selected").hidden = !selecting || !picked.size;
  $("delete-selected").textContent = `Delete ${picked.size}`;
}

async function deletePicked() {
  if (!confirm(`Delete ${words.count(picked.size, "clip")} permanently?`)) return;
  const left = [];
  for (const id of [...picked]) {
    await call(path(id), { method: "DELETE" }).then(() => gone(id), (error) => left.push(error));
  }
  if (left.length) throw new Error(`${words.count(left.length, "clip")} could not be deleted: ${left[0].message}`);
}

export function prepare(failed, deleted) {
  [told, gone] = [failed, deleted];
  const busy = (button, work) => button.addEventListener("click", () => {
    button.disabled = true;
    work().catch(told).finally(() => (button.disabled = false));
  });
  busy($("older"), showOlder);
  busy($("delete-selected"), deletePicked);
  $("select").addEventListener("click", () => {
    const on = $("select").getAttribute("aria-pressed") !== "true";
    $("select").setAttribute("aria-pressed", String(on));
    if (!on) picked.clear();
    drawPicked();
  });
  for (const id of ["search", "filter"]) $(id).addEventListener("input", draw);
}
