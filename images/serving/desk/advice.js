/** The advice for a photo: suggested edits with their gains, their combination, and rejected edits. */

import { element } from "./drawing.js";
import { gain, named, points } from "./words.js";

export class Advice {
  #node;
  #choose;
  #edits = new Map(); // by button
  #chosen = null;

  /**
   * @param node element that shows the advice.
   * @param choose callback for the edit that a person chooses to view.
   */
  constructor(node, choose) {
    this.#node = node;
    this.#choose = choose;
  }

  /** The chosen edit, `{preview, mean}`, or null. */
  get chosen() {
    return this.#chosen;
  }

  wait() {
    this.#clear(element("p", { class: "quiet" }, "Trying edits…"));
  }

  fail(why, again) {
    const button = element("button", { type: "button" }, "Try again");
    button.addEventListener("click", again);
    this.#clear(element("p", {}, why), element("p", {}, button));
  }

  show({ advice, together, refused }) {
    this.#clear();
    const edits = [...(together ? [["All together", together]] : []), ...advice.map((edit) => [named(edit.edit), edit])];
    if (edits.length) this.#node.append(element("div", { class: "edits" }, ...edits.map((edit) => this.#button(...edit))));
    else this.#node.append(element("p", {}, "No edit raises the score beyond the scorer's own noise. Leave the photo as it is."));
    if (refused.length) this.#node.append(fold(refused));
    this.#chosen = edits[0]?.[1] ?? null;
  }

  /** Marks the chosen edit while it is shown. */
  press(looking) {
    for (const [button, edit] of this.#edits) button.setAttribute("aria-pressed", looking && edit === this.#chosen);
  }

  #clear(...nodes) {
    this.#node.replaceChildren(...nodes);
    this.#edits.clear();
    this.#chosen = null;
  }

  #button(name, edit) {
    const button = element(
      "button", { type: "button", "aria-pressed": "false" },
      element("b", {}, name), element("i", {}, `${gain(edit.gain)} → ${points(edit.mean)}`), element("span", {}, edit.sentence),
    );
    this.#edits.set(button, edit);
    button.addEventListener("click", () => {
      this.#chosen = edit;
      this.#choose();
    });
    return button;
  }
}

function fold(refused) {
  const rows = refused.flatMap(({ edit, reason }) => [element("dt", {}, named(edit)), element("dd", {}, reason)]);
  return element("details", {}, element("summary", {}, `Tried and not advised (${refused.length})`), element("dl", {}, ...rows));
}
