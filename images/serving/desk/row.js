/** A photo's row in the list: rank, thumbnail, broken norms or problem, votes and score. */

import { element, votes } from "./drawing.js";
import { points } from "./words.js";

const template = document.querySelector("#row");

export class Row {
  #parts;
  #shown = null; // the drawn score or problem

  /**
   * @param photo the photo of the row.
   * @param open callback that opens the photo.
   * @param retry callback that sends the photo again.
   */
  constructor(photo, open, retry) {
    this.photo = photo;
    this.node = template.content.firstElementChild.cloneNode(true);
    const part = (selector) => this.node.querySelector(selector);
    this.#parts = {
      rank: part(".rank"), thumbnail: part(".thumbnail"), name: part(".name"), notes: part(".notes"),
      retry: part(".retry"), votes: part(".votes"), score: part(".score"),
    };
    this.#parts.name.textContent = photo.name;
    this.#parts.name.addEventListener("click", () => open(photo));
    this.#parts.retry.addEventListener("click", () => retry(photo));
  }

  /** The button that opens the photo. */
  get button() {
    return this.#parts.name;
  }

  /**
   * Shows the photo's state.
   *
   * @param place `{rank, tied}` of a scored photo.
   * @param joins `{before, after}`: whether the neighbouring rows share the photo's rank.
   */
  update(place, joins) {
    const { photo } = this;
    const list = this.node.classList;
    list.toggle("waiting", photo.state === "waiting" || photo.state === "sent");
    list.toggle("failed", photo.state === "failed");
    list.toggle("tied", Boolean(place?.tied));
    list.toggle("tied-before", joins.before);
    list.toggle("tied-on", joins.after);
    this.#parts.rank.replaceChildren(...rankOf(place));
    this.#parts.name.disabled = photo.state !== "scored";
    this.#parts.retry.hidden = photo.state !== "failed";
    const told = photo.score ?? photo.problem ?? photo.state;
    this.#parts.notes.replaceChildren(...notes(photo));
    if (told === this.#shown) return;
    this.#shown = told;
    this.#parts.votes.replaceChildren(...(photo.score ? [votes(photo.score)] : []));
    this.#parts.score.replaceChildren(...(photo.score ? scoreOf(photo.score) : []));
    this.#place();
  }

  /** Shows the thumbnail, or says that there is none. */
  picture(url) {
    const type = this.photo.name.split(".").pop().toUpperCase();
    this.#parts.thumbnail.replaceChildren(url ? element("img", { src: url, alt: "" }) : type.slice(0, 5));
    this.#place();
  }

  /** Centres the thumbnail on the face, if there is one. */
  #place() {
    const image = this.#parts.thumbnail.querySelector("img");
    const box = this.photo.score?.face?.box;
    if (!image || !box) return;
    const [x, y, width, height] = box.map((share) => 100 * share);
    image.style.objectPosition = `${clamped(x + width / 2)}% ${clamped(y + height / 2)}%`;
  }
}

function clamped(share) {
  return Math.min(Math.max(share, 0), 100).toFixed(1);
}

/** A rank. A shared rank has the sign of results tables, and words for screen readers. */
export function rankOf(place) {
  if (!place) return [];
  const shared = place.tied ? [element("span", { "aria-hidden": "true" }, "="), element("span", { class: "unseen" }, " shared")] : [];
  return [element("span", { class: "unseen" }, "Rank "), String(place.rank), ...shared];
}

/** Mean, uncertainty and spread. */
export function scoreOf({ mean, error, std }) {
  const uncertainty = error === null || error === undefined ? [] : [` ± ${points(error)}`];
  return [element("b", {}, points(mean)), ...uncertainty, element("small", {}, `spread ${points(std)}`)];
}

function notes(photo) {
  const note = (words, kind) => element("li", { class: kind }, words);
  if (photo.state === "waiting") return [note("Waiting")];
  if (photo.state === "sent") return [note("Being scored")];
  if (photo.state === "failed") return [note(photo.problem.message, "wrong")];
  const told = photo.broken.map((norm) => note(norm.sentence, "wrong"));
  if (photo.unsure) told.push(note("People would disagree about it more than about the others"));
  if (!told.length && photo.score.face) told.push(note(photo.score.face.found ? "Face found" : "No face found"));
  return told;
}
