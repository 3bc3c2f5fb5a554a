// Texts about a video.

const OPEN = new Set(["queued", "running", "paused", "cancelling"]);
const TITLES = {
  queued: "Waiting",
  running: "Rendering",
  paused: "Paused",
  cancelling: "Stopping",
  completed: "Done",
  failed: "Failed",
  cancelled: "Cancelled",
};

export const isOpen = (video) => OPEN.has(video.state);
export const pausing = (video) => video.state === "paused" && video.busy;
export const title = (video) => (pausing(video) ? "Pausing" : (TITLES[video.state] ?? video.state));
export const count = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
export const sentence = (text) => text && text[0].toUpperCase() + text.slice(1);
const joined = (...parts) => parts.filter(Boolean).join(" · ");

export function progress(video) {
  const left = video.eta_s == null ? "" : `about ${duration(video.eta_s)} left`;
  if (video.state === "queued") return joined(video.blocked, place(video.queue_position), left);
  if (pausing(video)) return `step ${video.step} of ${video.steps}; finishing the current steps`;
  if (video.state === "paused") return `at step ${video.step} of ${video.steps}`;
  if (video.state === "cancelling") return "finishing the current step";
  if (video.state === "running") return joined(stage(video), video.blocked, left);
  if (video.state === "completed") return video.gpu_seconds > 0 ? `took ${duration(video.gpu_seconds)} of worker time` : "";
  return video.state === "failed" ? sentence(video.error?.message ?? "") : "";
}

function place(before) {
  if (before == null) return "";
  return before === 0 ? "next in line" : `${count(before, "job")} ahead`;
}

function stage(video) {
  if (video.stage === "encode" || !video.stage) return "reading the picture";
  if (video.stage === "mux") return "writing the video";
  if (video.stage !== "decode") return `step ${video.step} of ${video.steps}`;
  return video.chunks > 1 ? `decoding part ${Math.min(video.chunk + 1, video.chunks)} of ${video.chunks}` : "decoding the frames";
}

export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

export function facts(video) {
  const size = video.size.replace("x", " × ");
  const motion = video.params ? `motion ${video.params.motion_bucket_id}` : "";
  const tier = video.tier === "exact" ? "" : `tier ${video.tier}`;
  return joined(video.model, size, count(video.num_frames, "frame"), `${video.fps} fps`, motion, tier, `seed ${video.seed}`);
}

// What a worker does, as in "decoding frames 0–13 of cat".
export function doing(worker) {
  if (!worker.task) return sentence(worker.why ?? "") || "–";
  const [first, end] = worker.span ?? [0, 0];
  const name = worker.picture || worker.job || `clip ${worker.clip.slice(0, 8)}`;
  return {
    encode: `reading ${name}`,
    denoise: `denoising ${name}, steps ${first + 1}–${end}`,
    decode: `decoding frames ${first + 1}–${end} of ${name}`,
    mux: `writing the video of ${name}`,
  }[worker.stage];
}

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const calendar = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });

export function when(seconds) {
  const then = new Date(seconds * 1000);
  const today = then.toDateString() === new Date().toDateString();
  return today ? `Today, ${clock.format(then)}` : calendar.format(then);
}

// The title of the browser's tab: what the clip on the stage is at, and how many are under way.
export function tab(video, open) {
  const at = video && isOpen(video) ? `${title(video)} ${video.progress}%` : "";
  return joined(at, open > 1 ? `${open} in progress` : "", "SVD render farm");
}
