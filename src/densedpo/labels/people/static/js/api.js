// Talking to the server: JSON both ways. Whether the network or the server refused is told apart, for only one is retried.

const TIMEOUT_MS = 20000;

export class Refused extends Error {
  constructor(status, message, body = {}) {
    super(message);
    this.status = status;
    this.body = body;
  }

  /** Whether the same request may succeed later. */
  get temporary() { return this.status >= 500 || this.status === 408 || this.status === 425 || this.status === 429; }
}

export class Unreachable extends Error {}

async function request(path, options) {
  try {
    return await fetch(path, { credentials: "same-origin", signal: AbortSignal.timeout(TIMEOUT_MS), ...options });
  } catch (error) {
    throw new Unreachable(error.message);
  }
}

/** Call the server; returns its JSON, or null for an empty reply. Throws Refused or Unreachable. */
export async function call(method, path, body) {
  const options = { method, headers: { Accept: "application/json" }, cache: "no-store" };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
    options.keepalive = options.body.length < 60000; // goes out even while the tab is being closed
  }
  const response = await request(path, options);
  const text = response.status === 204 ? "" : await response.text().catch(() => "");
  let value = null;
  try { value = text ? JSON.parse(text) : null; } catch { value = { error: "the server sent no JSON" }; }
  if (!response.ok) throw new Refused(response.status, value?.error ?? `the server said ${response.status}`, value ?? {});
  return value;
}

/** Fetch a video whole, so that playing it needs no network any more. */
export async function fetchBlob(path, signal) {
  const timeout = AbortSignal.timeout(10 * TIMEOUT_MS);
  const response = await request(path, { signal: signal ? AbortSignal.any([signal, timeout]) : timeout });
  if (!response.ok) throw new Refused(response.status, `the video could not be loaded (${response.status})`);
  try {
    return await response.blob();
  } catch (error) {
    throw new Unreachable(error.message);
  }
}

/** Call `attempt` until it succeeds; only what may pass by itself is tried again. */
export async function patiently(attempt, { wait = (ms) => new Promise((done) => setTimeout(done, ms)), onWait = () => {} } = {}) {
  for (let delay = 500; ; delay = Math.min(delay * 2, 8000)) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof Unreachable || (error instanceof Refused && error.temporary))) throw error;
      onWait(error);
      await wait(delay);
    }
  }
}

export function uuid() {
  if (crypto.randomUUID) return crypto.randomUUID(); // only where the page came over a secure connection
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
