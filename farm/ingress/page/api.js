// The farm's API: calls, the key, and addresses of clips for <img> and <video>.

export class ApiError extends Error {
  constructor(message, { status = 0, param = null, code = null } = {}) {
    super(message);
    Object.assign(this, { status, param, code });
  }
}

const KEY = "svd-farm-key";
const PATIENCE_MS = 30_000;
export const keys = {
  get: () => sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY),
  set(key, remember) {
    keys.forget();
    (remember ? localStorage : sessionStorage).setItem(KEY, key);
  },
  forget() {
    for (const storage of [sessionStorage, localStorage]) storage.removeItem(KEY);
    blobs.clear(); // blob URLs are not revoked: a looping player or a lazy picture reads its own again
  },
  refused: () => {}, // called when the farm demands a key, or refuses this one
};

// Relative to the page, so that a farm may be served below a path.
export const address = (path) => new URL(path, document.baseURI).href;
const authorization = () => (keys.get() ? { Authorization: `Bearer ${keys.get()}` } : {});

async function answer(path, options) {
  try {
    const headers = { ...authorization(), ...options.headers };
    return await fetch(address(path), { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The farm cannot be reached.");
  }
}

async function refusal(response) {
  const told = await response.json().catch(() => null);
  const error = told?.error ?? { message: `The farm answered ${response.status}.` };
  if (response.status === 401) keys.refused(error.message);
  return new ApiError(error.message, { ...error, status: response.status });
}

// Errors are thrown as ApiErrors, with status 0 if the farm does not answer.
export async function call(path, { method = "GET", ...options } = {}) {
  if (method === "GET") options.signal = AbortSignal.timeout(PATIENCE_MS);
  const response = await answer(path, { method, ...options });
  if (!response.ok) throw await refusal(response);
  return response.json();
}

// A path's server-sent events after number `after`, as { id, event, data }, until the stream ends.
export async function* events(path, after, signal) {
  const headers = after ? { "Last-Event-ID": after } : {};
  const response = await answer(path, { headers, signal });
  if (!response.ok) throw await refusal(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  while (true) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s)));
      if (fields.data) yield { ...fields, data: JSON.parse(fields.data) };
    }
  }
}

export const video = (id, rest = "") => `v1/videos/${encodeURIComponent(id)}${rest}`;
export const content = (id, variant, index = 0) =>
  video(id, `/content?variant=${variant}&index=${index}`);
export const converted = (id, format, index = 0) => video(id, `/content?format=${format}&index=${index}`);
export const fitted = (id) => video(id, "/picture?fitted=true");

const blobs = new Map(); // path -> promise of a blob URL: media elements cannot send a key

// An address that <img> and <video> can load.
export function media(path) {
  if (!keys.get()) return Promise.resolve(address(path));
  if (!blobs.has(path)) {
    const blob = fetched(path).then((data) => URL.createObjectURL(data));
    blob.catch(() => blobs.delete(path));
    blobs.set(path, blob);
  }
  return blobs.get(path);
}

// The picture of a video, as a file that can be sent again.
export async function pictureOf(video_) {
  const data = await fetched(video(video_.id, "/picture"));
  // With the same time, so that a request that is sent again is the same request.
  return new File([data], video_.name || "picture", { lastModified: video_.created_at * 1000 });
}

export async function fetched(path) {
  const response = await answer(path, {}).catch(() => {
    // The farm may redirect to the store, which may not allow this page to read from it.
    const hint = `curl -L -H "Authorization: Bearer KEY" -o clip.mp4 "${address(path)}"`;
    throw new ApiError(`The browser cannot fetch the clip. Its store may need CORS for this page. ${hint}`);
  });
  if (!response.ok) throw await refusal(response);
  return response.blob();
}
