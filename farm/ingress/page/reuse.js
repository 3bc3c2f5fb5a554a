// What a clip is made with: to fill in the form again, to render more of it, and to copy it.

import { address, keys } from "./api.js";
import { defaults, isDescribed } from "./form.js";

const UNKNOWN = { width: null, height: null, num_frames: null, max_guidance_scale: null, motion_bucket_id: null };

// The fields of a request that asks for the same video. Those that have their default are left out,
// except for those of which a model may have its own: only the farm knows it for certain.
export function fieldsOf(video) {
  const own = isDescribed(video.model) ? defaults(video.model) : { ...defaults(null), ...UNKNOWN };
  const fields = { model: video.model };
  if (video.variant) fields.variant = video.variant;
  if (video.dtype !== "float32") fields.dtype = video.dtype;
  for (const [name, value] of Object.entries(video.params)) {
    if (value === null || value.length === 0 || (name === "num_inference_steps" && video.params.sigmas)) continue;
    const usual = name === "fit" ? "stretch" : (own[name] ?? { reuse_interval: 1 }[name]);
    const steps = name === "num_inference_steps" && video.params.tier !== "exact";
    if (steps || String(value) !== String(usual)) fields[name] = Array.isArray(value) ? value.join(name === "sigmas" ? "," : "+") : value;
  }
  if (video.num_videos > 1) fields.num_videos = video.num_videos;
  return fields;
}

const seeds = (first, count = 1) => (count > 1 ? `${first}-${BigInt(first) + BigInt(count - 1)}` : first);
const quoted = (text) => (/^[\w./:@=-]+$/.test(text) ? text : `'${String(text).replaceAll("'", "'\\''")}'`);
const literal = (value) => (/^-?\d+(\.\d+)?$/.test(String(value)) ? String(value) : JSON.stringify(String(value)));

const WAYS = {
  curl: (fields, name) =>
    ["curl", ...(keys.get() ? ['-H "Authorization: Bearer $FARM_API_KEY"'] : []), ...["input_reference", ...Object.keys(fields)].map((field) =>
      field === "input_reference" ? `-F input_reference=@${quoted(name)}` : `-F ${field}=${quoted(fields[field])}`), address("v1/videos")].join(" \\\n  "),
  python: (fields, name) => {
    const given = Object.entries(fields).map(([field, value]) => `, ${field}=${literal(value)}`).join("");
    const key = keys.get() ? ', api_key=os.environ["FARM_API_KEY"]' : "";
    return `import farm\n${key && "import os\n"}\nfarms = farm.connect(${JSON.stringify(address(""))}${key})\njob = farms.submit(${JSON.stringify(name)}${given})\njob.wait().save("clip.mp4")`;
  },
  batch: (fields, name) =>
    ["python -m farm.batch", quoted(name), "--out clips",
      ...Object.entries({ seed: 0, ...fields }).filter(([field]) => field !== "num_videos").map(([field, value]) =>
        (field === "seed" ? `--seeds ${seeds(value, fields.num_videos)}` : `--${field.replaceAll("_", "-")} ${quoted(value)}`))].join(" "),
};

// A video's request as a command or a program. The picture's name stands for its path.
export const textOf = (way, video) => WAYS[way](fieldsOf(video), video.name || "photo.jpg");
