/** A photo's row in the list: rank, small picture, what is wrong with it, its votes and its score. */

import { element, votes } from "./drawing.js";
import { points } from "./words.js";

const template = document.querySelector("#row");

export class Row {
  #parts;
  #shown = null; // the score or problem that is drawn

  /**
   * @param photo whose row it is.
   * @param open called to open the photo.
   * @param retry called to send it again.
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
   * Shows where the photo stands.
   *
   * @param place `{rank, tied}` when it is scored.
   * @param joins `{before, after}`: whether the rows next to it in the list share its rank.
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

  /** Shows the small picture, or says that there is none. */
  picture(url) {
    const type = this.photo.name.split(".").pop().toUpperCase();
    this.#parts.thumbnail.replaceChildren(url ? element("img", { src: url, alt: "" }) : type.slice(0, 5));
    this.#place();
  }

  /** Moves the small picture so that the face is in the middle of its frame, where there is one. */
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

/** A rank; a shared one with the sign that tables of results use, and in words for those who hear it. */
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
