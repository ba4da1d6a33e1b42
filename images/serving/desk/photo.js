/** One photo on the desk: its file, its state and its results from the server. */

const WIDE = 1.2; // multiple of the median spread from which a photo counts as one that people disagree about
const FEW = 5; // number of photos below which no spread counts as unusual

export class Photo {
  /** `waiting`, `sent`, `scored` or `failed`. */
  state = "waiting";
  /** The server's answer when scored: mean, std, distribution, error, face, norms. */
  score = null;
  /** The version of the model that scored it. */
  version = null;
  /** Why it failed. */
  problem = null;
  /** Whether its votes spread far more than those of the other photos; see `compareSpreads`. */
  unsure = false;
  /** Object URL of its thumbnail. Null if this browser cannot show the photo, undefined before the first attempt. */
  picture = undefined;

  constructor(file, name) {
    this.file = file;
    this.name = name;
  }

  /** The upload norms that the photo breaks. */
  get broken() {
    return this.score?.norms.filter((norm) => norm.kept === false) ?? [];
  }

  /** Sets the photo to be sent again, and drops its earlier results. */
  reset() {
    Object.assign(this, { state: "waiting", score: null, problem: null, unsure: false });
  }
}

/** Marks the photos whose spread of votes is unusual among the photos on the desk. */
export function compareSpreads(scored) {
  const spreads = scored.map((photo) => photo.score.std).sort((one, other) => one - other);
  const usual = spreads.length < FEW ? Infinity : spreads[Math.floor(spreads.length / 2)];
  for (const photo of scored) photo.unsure = photo.score.std > WIDE * usual;
}
