/** One photo on the desk: its file, where it stands, and what the server said of it. */

const WIDE = 1.2; // times the middle photo's spread from which on people would disagree about a photo
const FEW = 5; // photos below which no spread is unusual

export class Photo {
  /** `waiting`, `sent`, `scored` or `failed`. */
  state = "waiting";
  /** The server's answer when scored: mean, std, distribution, error, face, norms. */
  score = null;
  /** The version of the model that scored it. */
  version = null;
  /** Why it failed. */
  problem = null;
  /** Whether its votes would spread far more than those of the other photos; see `compareSpreads`. */
  unsure = false;
  /** Object URL of its small picture; null when this browser cannot show it, undefined until it was tried. */
  picture = undefined;

  constructor(file, name) {
    this.file = file;
    this.name = name;
  }

  /** The upload norms that it breaks. */
  get broken() {
    return this.score?.norms.filter((norm) => norm.kept === false) ?? [];
  }

  /** Sends it anew; what was said of it no longer holds. */
  reset() {
    Object.assign(this, { state: "waiting", score: null, problem: null, unsure: false });
  }
}

/** Marks the photos on which people would disagree unusually, beside the others on the desk. */
export function compareSpreads(scored) {
  const spreads = scored.map((photo) => photo.score.std).sort((one, other) => one - other);
  const usual = spreads.length < FEW ? Infinity : spreads[Math.floor(spreads.length / 2)];
  for (const photo of scored) photo.unsure = photo.score.std > WIDE * usual;
}
