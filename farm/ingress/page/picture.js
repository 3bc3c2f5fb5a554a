// The picture to render: chosen, dropped, or a sample; and which part of it a crop keeps.

const $ = (id) => document.getElementById(id);
const input = $("input_reference");
const drop = $("drop");
const backdrop = $("backdrop");
const DRAG_PX = 4; // a shorter movement is a click
const MOST = 4; // times a frame's size: a part that is larger is scaled down before it is sent
const CENTRE = { x: 50, y: 50 };

let turn = 0; // counts the pictures that were taken
let current = null; // {file, url, image, crop}; image: null if the browser cannot show it
let taken = () => {}; // called with every new picture
let fitOf = () => "crop";

export const chosen = () => current;
export const whenTaken = (listener) => (taken = listener);

// Take a file as the picture. Pictures that only the farm can read, such as HEIC, are taken, too.
export async function take(file) {
  const mine = ++turn;
  const url = URL.createObjectURL(file);
  const image = Object.assign(new Image(), { src: url });
  const shown = await image.decode().then(() => true, () => false);
  if (turn !== mine) return URL.revokeObjectURL(url); // another was taken meanwhile
  if (current) URL.revokeObjectURL(current.url);
  current = { file, url, image: shown ? image : null, crop: { ...CENTRE } };
  return taken(current);
}

// Show the picture in the frame, cut as it will be.
export function show() {
  backdrop.hidden = !current?.image;
  if (!current?.image) return;
  Object.assign(backdrop, { src: current.url, className: fitOf() });
  place();
}

function place() {
  const { x, y } = current?.crop ?? CENTRE;
  backdrop.style.objectPosition = `${x}% ${y}%`;
  drop.classList.toggle("moves", slack().some((px) => px > 1));
}

// How much longer than the frame the picture is, sideways and downward, in pixels of the page.
function slack() {
  if (!current?.image || fitOf() !== "crop") return [0, 0];
  const { clientWidth: w, clientHeight: h } = backdrop;
  const scale = Math.max(w / current.image.naturalWidth, h / current.image.naturalHeight);
  return [current.image.naturalWidth * scale - w, current.image.naturalHeight * scale - h];
}

// The file to send: the chosen one; or, if the crop was moved, the part of it that was chosen.
export async function file(width, height) {
  const { file: whole, image, crop } = current;
  const centred = Math.abs(crop.x - 50) < 0.5 && Math.abs(crop.y - 50) < 0.5;
  if (!image || fitOf() !== "crop" || centred) return whole;
  const { naturalWidth: w, naturalHeight: h } = image;
  const scale = Math.min(w / width, h / height);
  const part = { w: Math.round(width * scale), h: Math.round(height * scale) };
  const [x, y] = [((w - part.w) * crop.x) / 100, ((h - part.h) * crop.y) / 100].map(Math.round);
  const shrink = Math.min(1, (MOST * width) / part.w); // or the PNG of a photograph would be huge
  const size = { width: Math.round(part.w * shrink), height: Math.round(part.h * shrink) };
  const canvas = Object.assign(document.createElement("canvas"), size);
  const context = Object.assign(canvas.getContext("2d"), { imageSmoothingQuality: "high" });
  context.drawImage(image, x, y, part.w, part.h, 0, 0, size.width, size.height);
  const data = await new Promise((done) => canvas.toBlob(done, "image/png"));
  return new File([data], `${whole.name.replace(/\.\w+$/, "")}.png`, { type: "image/png", lastModified: whole.lastModified });
}

function drag(event) {
  if (event.button !== 0 || !drop.classList.contains("moves")) return;
  const from = { x: event.clientX, y: event.clientY, ...{ crop: { ...current.crop } } };
  const [wide, tall] = slack();
  let moved = false;
  const clamp = (value) => Math.min(100, Math.max(0, value));
  const move = (now) => {
    const [dx, dy] = [now.clientX - from.x, now.clientY - from.y];
    moved ||= Math.hypot(dx, dy) > DRAG_PX;
    if (!moved) return;
    drop.classList.add("moving");
    if (wide > 1) current.crop.x = clamp(from.crop.x - (100 * dx) / wide);
    if (tall > 1) current.crop.y = clamp(from.crop.y - (100 * dy) / tall);
    place();
  };
  const end = (event) => {
    drop.classList.remove("moving");
    removeEventListener("pointermove", move);
    removeEventListener("pointerup", end);
    removeEventListener("pointercancel", end);
    if (!moved || event.type !== "pointerup") return;
    const block = (click) => click.preventDefault(); // the click that ends a drag chooses no file
    drop.addEventListener("click", block, { once: true, capture: true });
    setTimeout(() => drop.removeEventListener("click", block, { capture: true }));
  };
  addEventListener("pointermove", move);
  addEventListener("pointerup", end);
  addEventListener("pointercancel", end);
}

function moveByKeys(event) {
  const step = { ArrowLeft: [-5, 0], ArrowRight: [5, 0], ArrowUp: [0, -5], ArrowDown: [0, 5] }[event.key];
  if (!step || !drop.classList.contains("moves")) return;
  event.preventDefault();
  current.crop.x = Math.min(100, Math.max(0, current.crop.x + step[0]));
  current.crop.y = Math.min(100, Math.max(0, current.crop.y + step[1]));
  place();
}

export function prepare(fit) {
  fitOf = fit;
  input.addEventListener("change", () => {
    const file = input.files[0];
    input.value = ""; // so that the same file can be chosen again
    if (file) take(file);
  });
  drop.addEventListener("pointerdown", drag);
  input.addEventListener("keydown", moveByKeys);
  $("change").addEventListener("click", () => input.click());
  new ResizeObserver(() => current && place()).observe($("frame"));
  // On the whole page, since a picture dropped elsewhere would replace the page.
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const file = [...event.dataTransfer.files][0];
    if (file) take(file);
  });
}
