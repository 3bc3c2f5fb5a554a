// Clips play while they are in view. Whoever prefers less motion starts them, and each can be held.
const clips = [...document.querySelectorAll("video")];
const motion = document.getElementById("motion");
const inView = new Set();
const held = new Set(); // paused by the viewer
let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;

function update(clip) {
  if (playing && inView.has(clip) && !held.has(clip)) clip.play().catch(() => {});
  else if (!clip.matches(":hover, :focus") || !inView.has(clip) || !playing) clip.pause();
}

const watch = new IntersectionObserver((changes) => {
  for (const { target, isIntersecting } of changes) {
    inView[isIntersecting ? "add" : "delete"](target);
    update(target);
  }
}, { threshold: 0.2 });

for (const clip of clips) {
  clip.controls = false; // they cover a small clip: shown while it is pointed at or focused
  clip.tabIndex = 0;
  const show = () => { clip.controls = true; };
  const hide = () => { clip.controls = clip.matches(":hover, :focus"); };
  for (const event of ["pointerenter", "focus"]) clip.addEventListener(event, show);
  for (const event of ["pointerleave", "blur"]) clip.addEventListener(event, hide);
  clip.addEventListener("pause", () => {
    if (clip.controls && inView.has(clip) && playing) held.add(clip);
  });
  clip.addEventListener("play", () => held.delete(clip));
  watch.observe(clip);
}

function say() { motion.textContent = playing ? "Pause all" : "Play all"; }
motion.hidden = clips.length === 0;
motion.addEventListener("click", () => {
  playing = !playing;
  held.clear();
  say();
  clips.forEach(update);
});
say();

// A picture that is not in the output, as after an earlier version.
for (const image of document.querySelectorAll(".source img")) {
  const leave = () => image.closest("figure").remove();
  if (image.complete && !image.naturalWidth && image.loading !== "lazy") leave();
  image.addEventListener("error", leave);
}

const copy = document.getElementById("copy");
if (copy && navigator.clipboard) {
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.querySelector("pre").textContent);
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = "Copy"; }, 2000);
  });
}
