/**
 * Client of the desk's server: requests, waiting, retries and giving up.
 *
 * All paths are relative, so the desk also works behind a proxy that adds a prefix. No other host receives requests.
 */

const BUSY = [429, 503];
const TRIES = 4; // attempts for a request without any response
const PATIENCE = 20; // responses 429 to one request before it is given up
const SECOND = 1000;

/** The error of a request or a photo, from the server or from the network. `message` is the text for people. */
export class Problem extends Error {
  constructor(message, { status = 0, told = null } = {}) {
    super(message);
    this.status = status;
    this.told = told;
  }

  /** A problem from a problem document (RFC 9457): its detail, or another of its texts. */
  static of(told, status = told?.status ?? 0) {
    const message = told?.detail || told?.title || `The server answered ${status} without a reason.`;
    return new Problem(message[0].toUpperCase() + message.slice(1), { status, told });
  }
}

export class Server {
  #key = "";
  #asked = null; // the dialog for the key, shared by all refused requests
  #askKey;
  #wait;

  /**
   * @param askKey callback with true if a key was refused; returns a promise of the API key, or of null for none.
   * @param wait callback with the seconds until a busy server is tried again; 0 when the server has answered.
   */
  constructor({ askKey, wait }) {
    this.#askKey = askKey;
    this.#wait = wait;
  }

  /** The server's description: model, jobs, norms and limits. */
  async about(signal) {
    return (await this.#ask("about", null, signal)).json();
  }

  /**
   * Scores of photos.
   *
   * @returns `{version, photos}`: the model's version, and a score or `{problem}` for each photo, in their order.
   * @throws {Problem} if the whole request is refused.
   */
  async score(files, job, signal) {
    const answer = await this.#ask("score", form("photos", files, job), signal, [422]);
    const told = await json(answer);
    if (told?.photos?.length !== files.length) throw Problem.of(told, answer.status);
    return { version: told.model.version, photos: told.photos };
  }

  /** The photo under a map, `heat` or `gains`, as a PNG. */
  async explain(file, job, map, signal) {
    return (await this.#ask(`explain?map=${map}`, form("photo", [file], job), signal)).blob();
  }

  /** Edits that would raise the score, with previews, and rejected edits. */
  async advise(file, job, signal) {
    return (await this.#ask("advise", form("photo", [file], job), signal)).json();
  }

  async #ask(path, body, signal, allowed = []) {
    for (let tried = 1, busy = 1; ; ) {
      const key = this.#key;
      const answer = await this.#send(path, body, key, signal);
      if (answer === null) {
        if (tried === TRIES) throw new Problem("The server could not be reached. Try again when the connection is back.");
        await pause(2 ** tried++ / 4, signal);
      } else if (answer.status === 401) {
        await this.#unlock(key, answer);
      } else if (BUSY.includes(answer.status) && busy++ < PATIENCE) {
        await this.#hold(answer, signal);
      } else if (answer.ok || allowed.includes(answer.status)) {
        return answer;
      } else {
        throw Problem.of(await json(answer), answer.status);
      }
    }
  }

  /** The response, or null if there is none. */
  async #send(path, body, key, signal) {
    const headers = { Accept: "application/json, application/problem+json, image/png" };
    if (key) headers.Authorization = `Bearer ${key}`;
    try {
      return await fetch(path, { method: body ? "POST" : "GET", body, headers, signal, cache: "no-store" });
    } catch (error) {
      if (signal?.aborted) throw error;
      return null;
    }
  }

  async #hold(answer, signal) {
    const seconds = retryAfter(answer.headers.get("Retry-After"));
    this.#wait(seconds);
    try {
      await pause(seconds, signal);
    } finally {
      this.#wait(0);
    }
  }

  /** Asks for the key, once for all requests that were refused with the same key. */
  async #unlock(used, answer) {
    if (this.#key !== used) return; // another request has already obtained a newer key
    this.#asked ??= this.#askKey(used !== "").finally(() => (this.#asked = null));
    const key = await this.#asked;
    if (!key) throw Problem.of(await json(answer), 401);
    this.#key = key;
  }
}

/** Seconds to wait: from `Retry-After`, which holds seconds or a date. Two without the header. */
export function retryAfter(header) {
  const seconds = header?.match(/^\d+$/) ? Number(header) : (Date.parse(header) - Date.now()) / SECOND;
  return Number.isFinite(seconds) ? Math.min(Math.max(seconds, 0.25), 120) : 2;
}

function form(field, files, job) {
  const body = new FormData();
  for (const file of files) body.append(field, file, file.name);
  if (job) body.append("job", job);
  return body;
}

async function json(answer) {
  try {
    return await answer.json();
  } catch {
    return null; // not JSON: a proxy's page, or an empty body
  }
}

function pause(seconds, signal) {
  return new Promise((done, failed) => {
    signal?.throwIfAborted();
    const stop = () => {
      clearTimeout(timer);
      failed(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      done();
    }, seconds * SECOND);
    signal?.addEventListener("abort", stop, { once: true });
  });
}
