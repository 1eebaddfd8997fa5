// Talking to the endpoint: its errors in its own words, and a key only once it asks for one.

const KEY = "distgen-key";

export class EndpointError extends Error {
  constructor(message, status = 0, param = null) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const keepKey = (key) => sessionStorage.setItem(KEY, key);

// What a JSON answer holds. `body` is an object (sent as JSON) or FormData (sent as it is).
export async function ask(path, { body, signal } = {}) {
  const headers = hasKey() ? { authorization: `Bearer ${sessionStorage.getItem(KEY)}` } : {};
  const options = { headers, signal };
  if (body !== undefined) {
    options.method = "POST";
    options.body = body instanceof FormData ? body : JSON.stringify(body);
    if (!(body instanceof FormData)) headers["content-type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new EndpointError("The endpoint does not answer. See whether it still runs, then try again.");
  }
  const content = await answer.json().catch(() => null);
  if (answer.ok && content !== null) return content;
  if (signal?.aborted) throw new DOMException("given up", "AbortError");
  const error = content?.error;
  const wait = answer.headers.get("retry-after");
  throw new EndpointError(
    error?.message ?? `The endpoint answered ${answer.status}${wait ? `; try again in ${wait} s` : ""}.`,
    answer.status,
    error?.param,
  );
}

export const modelPath = (id) => `v1/models/${id.split("/").map(encodeURIComponent).join("/")}`;

const MEDIA = { png: "image/png", webp: "image/webp", jpeg: "image/jpeg", gif: "image/gif" };

// A `blob:` URL of a picture that came in base64. Whoever shows it no longer calls `release`.
export function pictureUrl(base64, format) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return URL.createObjectURL(new Blob([bytes], { type: MEDIA[format] ?? "image/png" }));
}

export const release = (url) => url?.startsWith("blob:") && URL.revokeObjectURL(url);

// Runs `task(signal)` after a pause in which nothing newer came; what is newer ends what runs.
export function latest(task, pauseMs, failed) {
  let timer = 0;
  let running = new AbortController();
  const call = (nowMs = pauseMs) => {
    clearTimeout(timer);
    running.abort();
    const { signal } = (running = new AbortController());
    timer = setTimeout(async () => {
      try {
        await task(signal);
      } catch (error) {
        if (!signal.aborted) failed(error);
      }
    }, nowMs);
  };
  call.stop = () => {
    clearTimeout(timer);
    running.abort();
  };
  return call;
}

// Like `latest`, for what is dragged: one request at a time, the newest wish next.
export function live(task, failed) {
  let running = null;
  let wanted = false;
  const call = async () => {
    wanted = true;
    if (running) return;
    while (wanted) {
      wanted = false;
      const mine = (running = new AbortController());
      try {
        await task(mine.signal);
      } catch (error) {
        if (!mine.signal.aborted) failed(error);
      }
      if (running !== mine) return; // stopped meanwhile, and perhaps begun anew
    }
    running = null;
  };
  call.stop = () => {
    wanted = false;
    running?.abort();
    running = null;
  };
  return call;
}
