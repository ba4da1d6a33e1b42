/** Pictures of photos, made in the browser, at most one at a time in memory at full size, and given back when done. */

const SMALL = 240; // pixels: height of a picture in the list, on dense screens twice its place
const QUALITY = 0.85;

let turn = Promise.resolve();

/**
 * A small copy of a photo, made when its turn comes.
 *
 * @param file the photo.
 * @param shown tells whether it is still wanted.
 * @returns an object URL, null when this browser cannot show the format, undefined when it is not wanted any more.
 */
export function small(file, shown) {
  const made = turn.then(() => (shown() ? reduced(file, { resizeHeight: SMALL, resizeQuality: "medium" }) : undefined));
  turn = made.catch(() => {});
  return made;
}

/** A copy of a photo with these pixels, so that it compares fairly with a picture of that size; null as for `small`. */
export function sized(file, width, height) {
  return reduced(file, { resizeWidth: width, resizeHeight: height, resizeQuality: "high" });
}

async function reduced(file, size) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, size);
  } catch {
    return null;
  }
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", QUALITY));
  return blob && URL.createObjectURL(blob);
}

/** Promises the image once it can be drawn, or null when this browser cannot show it. */
export async function loaded(url, alt) {
  const image = new Image();
  image.alt = alt;
  image.src = url;
  try {
    await image.decode();
    return image;
  } catch {
    return null;
  }
}

/** What was fetched of the photos looked at last; what is pushed out, or forgotten, is disposed of. */
export class Kept {
  #most;
  #dispose;
  #entries = new Map();

  constructor(most, dispose = () => {}) {
    this.#most = most;
    this.#dispose = dispose;
  }

  /** The kept answer for a photo, or a new one; failures are not kept. */
  async get(photo, make) {
    if (this.#entries.has(photo)) return this.#entries.get(photo);
    const made = await make();
    this.#entries.set(photo, made);
    for (const old of this.#entries.keys()) {
      if (this.#entries.size <= this.#most) break;
      this.forget(old);
    }
    return made;
  }

  forget(photo) {
    if (!this.#entries.has(photo)) return;
    this.#dispose(this.#entries.get(photo));
    this.#entries.delete(photo);
  }

  clear() {
    for (const photo of [...this.#entries.keys()]) this.forget(photo);
  }
}
