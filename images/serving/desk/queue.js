/** Sends photos in batches within the server's limits, two requests at a time, until all are sent or it is stopped. */

import { Problem } from "./server.js";

const LANES = 2; // requests in flight
const BATCH = 8; // photos in a request: few, so that the first scores come soon
const ROOM = 4096; // bytes of a request reserved for the form around the photos
const MEGABYTE = 1e6;

export class Queue {
  #server;
  #limits;
  #photos;
  #changed;
  #refused;
  #job = "";
  #run = null; // the present run: its abort controller and its number of active lanes

  /**
   * @param server source of scores.
   * @param limits `photos` and `bytes` of a request, from the server's description.
   * @param photos the desk's photos; waiting photos are sent.
   * @param changed callback for each change of a photo or of the queue.
   * @param refused callback for the problem with which the server refuses every request.
   */
  constructor(server, limits, photos, { changed, refused }) {
    this.#server = server;
    this.#limits = limits;
    this.#photos = photos;
    this.#changed = changed;
    this.#refused = refused;
  }

  get running() {
    return this.#run !== null;
  }

  /** Sends all waiting photos, including those added meanwhile. */
  start(job) {
    this.#job = job;
    const run = (this.#run ??= { stopper: new AbortController(), lanes: 0 });
    for (let free = LANES - run.lanes; free > 0; free--) this.#lane(run); // a lane without photos ends at once
    this.#changed();
  }

  /** Stops sending. Photos without scores stay waiting. */
  stop() {
    this.#run?.stopper.abort();
    this.#run = null;
    for (const photo of this.#photos) if (photo.state === "sent") photo.state = "waiting";
    this.#changed();
  }

  async #lane(run) {
    run.lanes += 1;
    const { signal } = run.stopper;
    for (let batch; !signal.aborted && (batch = this.#take()).length; ) {
      await this.#score(await readable(batch), signal);
      if (!signal.aborted) this.#changed();
    }
    run.lanes -= 1;
    if (run.lanes === 0 && this.#run === run) {
      this.#run = null;
      this.#changed();
    }
  }

  /** The next waiting photos that fit into one request, marked as sent. */
  #take() {
    const batch = [];
    let room = this.#limits.bytes - ROOM;
    for (const photo of this.#photos) {
      if (photo.state !== "waiting") continue;
      if (photo.file.size > this.#limits.bytes - ROOM) {
        fail(photo, new Problem(tooLarge(photo.file.size, this.#limits.bytes)));
        continue;
      }
      if (batch.length === Math.min(BATCH, this.#limits.photos) || photo.file.size > room) break;
      room -= photo.file.size;
      photo.state = "sent";
      batch.push(photo);
    }
    return batch;
  }

  async #score(batch, signal) {
    if (!batch.length || signal.aborted) return;
    try {
      const { version, photos } = await this.#server.score(batch.map((photo) => photo.file), this.#job, signal);
      if (signal.aborted) return;
      batch.forEach((photo, at) => {
        const { problem, ...score } = photos[at];
        if (problem) fail(photo, Problem.of(problem));
        else Object.assign(photo, { state: "scored", score, version, problem: null });
      });
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Problem)) throw error;
      if (error.status === 401) {
        this.stop();
        this.#refused(error);
      } else if (error.status >= 400 && error.status < 500 && batch.length > 1) {
        for (const photo of batch) await this.#score([photo], signal); // one request a photo, so that only the faulty photo fails
      } else for (const photo of batch) fail(photo, error);
    }
  }
}

function fail(photo, problem) {
  Object.assign(photo, { state: "failed", score: null, problem });
}

/** The photos whose files can still be read. All other photos are marked as failed. */
async function readable(batch) {
  const found = await Promise.all(
    batch.map((photo) => photo.file.slice(0, 1).arrayBuffer().then(() => true, () => false)),
  );
  batch.forEach((photo, at) => {
    if (!found[at]) fail(photo, new Problem("The file cannot be read any more: it was changed or moved. Add it again."));
  });
  return batch.filter((photo, at) => found[at]);
}

function tooLarge(size, limit) {
  const megabytes = (bytes) => (bytes / MEGABYTE).toFixed(1);
  return `The file has ${megabytes(size)} MB; this server takes requests up to ${megabytes(limit)} MB. Send a smaller copy.`;
}
