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
export const title = (video) => TITLES[video.state] ?? video.state;
export const count = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
const joined = (...parts) => parts.filter(Boolean).join(" · ");

export function progress(video) {
  const left = video.eta_s == null ? "" : `about ${duration(video.eta_s)} left`;
  if (video.state === "queued") return joined(video.blocked, place(video.queue_position), left);
  if (video.state === "paused") return `at step ${video.step} of ${video.steps}`;
  if (video.state === "cancelling") return "after the step it is in";
  if (video.state === "running") return joined(stage(video), video.blocked, left);
  return video.state === "completed" ? "" : (video.error?.message ?? "");
}

function place(before) {
  if (before == null) return "";
  return before === 0 ? "next in line" : `${count(before, "job")} before it`;
}

function stage(video) {
  if (video.stage === "decode") return `frames decoded: part ${video.chunk} of ${video.chunks}`;
  if (video.stage === "mux") return "writing the video";
  return `step ${video.step} of ${video.steps}`;
}

export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

export function facts(video) {
  const ended = video.state === "completed" && video.gpu_seconds > 0;
  const spent = ended ? `${video.gpu_seconds.toFixed(1)} GPU s` : "";
  const size = video.size.replace("x", " × ");
  const frames = count(video.num_frames, "frame");
  const tier = video.tier === "exact" ? "" : `tier ${video.tier}`;
  return joined(video.model, size, frames, `${video.fps} fps`, tier, `seed ${video.seed}`, spent);
}

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const calendar = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });

export function when(seconds) {
  const then = new Date(seconds * 1000);
  const today = then.toDateString() === new Date().toDateString();
  return today ? `Today, ${clock.format(then)}` : calendar.format(then);
}
