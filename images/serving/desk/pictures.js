/** Thumbnails and reduced copies of photos, made in the browser. At most one full-size photo is in memory at a time. */

const SMALL = 240; // pixels: height of a thumbnail, twice its height in the list for dense screens
const QUALITY = 0.85;

let turn = Promise.resolve();

/**
 * A thumbnail of a photo, made when its turn comes.
 *
 * @param file the photo.
 * @param shown returns whether the thumbnail is still needed.
 * @returns an object URL; null if this browser cannot show the format; undefined if no longer needed.
 */
export function small(file, shown) {
  const made = turn.then(() => (shown() ? reduced(file, { resizeHeight: SMALL, resizeQuality: "medium" }) : undefined));
  turn = made.catch(() => {});
  return made;
}

/** A copy of a photo with a number of pixels, for a fair comparison with another picture. Null as in `small`. */
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

/** A promise of the image once it can be drawn, or of null if this browser cannot show it. */
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

/** Cache of fetched results of the photos viewed last. Evicted and removed results are disposed of. */
export class Kept {
  #most;
  #dispose;
  #entries = new Map();

  constructor(most, dispose = () => {}) {
    this.#most = most;
    this.#dispose = dispose;
  }

  /** The cached result for a photo, or a new one. Failures are not cached. */
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
