/** An opened photo: large, under its maps, before and after an edit, and with all results from the server. */

import { Advice } from "./advice.js";
import { element, mark, votes } from "./drawing.js";
import { Kept, loaded, sized } from "./pictures.js";
import { rankOf, scoreOf } from "./row.js";
import { Problem } from "./server.js";
import { faces, named, points } from "./words.js";

const KEPT = 24; // photos whose maps and advice are kept
const RESTING = 400; // milliseconds that a photo is shown before advice is requested: photos skipped over get none
const CAPTIONS = {
  heat: "Bright places speak for the votes that are expected, whether low or high.",
  gains: "Orange places raise the score, purple ones lower it.",
};

const at = (id) => document.getElementById(id);

export class Opened {
  #desk;
  #server;
  #dialog = at("opened");
  #frame = at("frame");
  #photo = null;
  #wanted = "photo"; // the view that the person chose last, kept from photo to photo
  #looking = new AbortController(); // aborted when another photo is shown
  #turn = 0; // number of the present drawing: results for an earlier number are not drawn
  #url = null;
  #maps = { heat: new Kept(KEPT, URL.revokeObjectURL), gains: new Kept(KEPT, URL.revokeObjectURL) };
  #advices = new Kept(KEPT);
  #advice;

  /**
   * @param server source of maps and advice.
   * @param desk the desk: `shown()` returns the photos in their order; `place(photo)`; `job`; `norms` by key;
   *   `remove(photo)`; `focus(photo)` moves the focus back to the list.
   */
  constructor(server, desk) {
    this.#server = server;
    this.#desk = desk;
    this.#advice = new Advice(at("advice"), () => {
      this.#look("advice");
      this.#frame.scrollIntoView({ block: "nearest" }); // on a phone the frame is above the advice
    });
    at("previous").addEventListener("click", () => this.#step(-1));
    at("next").addEventListener("click", () => this.#step(1));
    at("close").addEventListener("click", () => this.#dialog.close());
    at("remove").addEventListener("click", () => this.#remove());
    at("views").addEventListener("click", ({ target }) => target.dataset.view && this.#look(target.dataset.view));
    this.#dialog.addEventListener("keydown", (event) => this.#key(event));
    this.#dialog.addEventListener("click", ({ target }) => target === this.#dialog && this.#dialog.close());
    this.#dialog.addEventListener("close", () => this.#closed());
  }

  open(photo) {
    this.#show(photo);
    this.#dialog.showModal();
    at("opened-name").focus();
  }

  /** Discards maps and advice of another job or of removed photos. */
  forget() {
    for (const kept of [this.#maps.heat, this.#maps.gains, this.#advices]) kept.clear();
  }

  #closed() {
    const photo = this.#photo;
    this.#leave();
    this.#photo = null;
    this.#frame.replaceChildren();
    this.#desk.focus(photo);
  }

  #leave() {
    this.#looking.abort();
    this.#turn += 1;
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.#url = null;
  }

  #key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.target.matches("input, pre")) return; // there, arrow keys move the slider or the text
    event.preventDefault();
    this.#step(step);
  }

  #step(by) {
    const shown = this.#desk.shown();
    const photo = shown[shown.indexOf(this.#photo) + by];
    if (photo) this.#show(photo);
  }

  #remove() {
    const shown = this.#desk.shown();
    const place = shown.indexOf(this.#photo);
    const gone = this.#photo;
    const next = shown[place + 1] ?? shown[place - 1];
    if (next) this.#show(next);
    for (const kept of [this.#maps.heat, this.#maps.gains, this.#advices]) kept.forget(gone);
    this.#desk.remove(gone);
    if (next) this.#head(next);
    else this.#dialog.close();
  }

  #show(photo) {
    this.#leave();
    this.#looking = new AbortController();
    this.#photo = photo;
    this.#url = URL.createObjectURL(photo.file);
    this.#head(photo);
    const { score } = photo;
    at("opened-score").replaceChildren(...scoreOf(score));
    at("opened-votes").replaceChildren(votes(score, true));
    at("norms").replaceChildren(...norms(score));
    at("norms-part").hidden = !at("norms").childElementCount;
    at("answer").textContent = JSON.stringify(score, null, 2);
    for (const part of [".panel", ".sides"]) this.#dialog.querySelector(part).scrollTop = 0;
    this.#advise(photo);
    this.#draw();
  }

  #head(photo) {
    const shown = this.#desk.shown();
    const place = shown.indexOf(photo);
    at("opened-rank").replaceChildren(...rankOf(this.#desk.place(photo)));
    at("opened-name").textContent = photo.name;
    at("opened-place").textContent = `${place + 1} of ${shown.length}`;
    at("previous").disabled = place <= 0;
    at("next").disabled = place + 1 >= shown.length;
  }

  // Advice

  async #advise(photo) {
    const { signal } = this.#looking;
    this.#advice.wait();
    this.#offer();
    try {
      const told = await this.#advices.get(photo, async () => {
        await new Promise((done) => setTimeout(done, RESTING));
        signal.throwIfAborted();
        return this.#server.advise(photo.file, this.#desk.job, signal);
      });
      if (signal.aborted) return;
      this.#advice.show(told);
      this.#offer();
      if (this.#wanted === "advice") this.#draw();
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Problem)) throw error;
      this.#advice.fail(error.message, () => this.#advise(photo));
    }
  }

  /** Enables the comparison of before and after once an edit is chosen. */
  #offer() {
    at("views").querySelector("[data-view=advice]").disabled = !this.#advice.chosen;
  }

  // The frame

  #look(view) {
    this.#wanted = view;
    this.#draw();
  }

  async #draw() {
    const turn = ++this.#turn;
    const { signal } = this.#looking;
    const view = this.#wanted === "advice" && !this.#advice.chosen ? "photo" : this.#wanted;
    for (const button of at("views").children) button.setAttribute("aria-pressed", button.dataset.view === view);
    this.#advice.press(view === "advice");
    this.#frame.setAttribute("aria-busy", "true"); // the frame still shows the photo before, dimmed
    try {
      const drawn = await this.#drawn(view, signal);
      if (turn !== this.#turn) return;
      this.#fill(drawn.node);
      at("caption").textContent = drawn.caption;
    } catch (error) {
      if (turn !== this.#turn) return;
      if (!(error instanceof Problem)) throw error;
      this.#fill(element("p", { class: "placeholder" }, error.message));
      at("caption").textContent = "";
    }
  }

  #fill(node) {
    this.#frame.replaceChildren(node);
    this.#frame.removeAttribute("aria-busy");
  }

  /** The node of a view and its caption. */
  async #drawn(view, signal) {
    const photo = this.#photo;
    if (view === "advice") return this.#compared(photo, this.#advice.chosen);
    if (view !== "photo") return { node: picture(await this.#map(photo, view, signal)), caption: CAPTIONS[view] };
    const image = await loaded(this.#url, photo.name);
    if (image) return { node: picture(image), caption: "" };
    const map = await this.#map(photo, "heat", signal);
    return { node: picture(map), caption: `This browser cannot show the photo itself. ${CAPTIONS.heat}` };
  }

  async #map(photo, view, signal) {
    this.#wait("Drawing the map…");
    const url = await this.#maps[view].get(photo, async () =>
      URL.createObjectURL(await this.#server.explain(photo.file, this.#desk.job, view, signal)),
    );
    return loaded(url, view === "heat" ? `Heat map over ${photo.name}` : `Gains and losses over ${photo.name}`);
  }

  async #compared(photo, edit) {
    const after = await loaded(edit.preview, `${photo.name}, edited`);
    const before = await this.#before(photo, after);
    if (!before) return { node: picture(after), caption: "The edited photo. This browser cannot show the original." };
    return { node: comparison(before, after, photo.score.mean, edit.mean), caption: "Drag the line, or tab to it and use the arrow keys." };
  }

  /** The photo with about as many pixels as its edited copy: a sharper photo would compare unfairly. */
  async #before(photo, after) {
    const whole = await loaded(this.#url, photo.name);
    if (!whole) return null;
    const scale = Math.min(1, Math.min(after.naturalWidth, after.naturalHeight) / Math.min(whole.naturalWidth, whole.naturalHeight));
    const url = await sized(photo.file, Math.round(scale * whole.naturalWidth), Math.round(scale * whole.naturalHeight));
    const image = url && (await loaded(url, photo.name));
    if (url) URL.revokeObjectURL(url); // no longer needed, because the image is decoded
    return image;
  }

  #wait(words) {
    if (!this.#frame.childElementCount) this.#frame.replaceChildren(element("p", { class: "placeholder" }, words));
    at("caption").textContent = words;
  }
}

/** Broken norms as sentences, unchecked norms with their reasons, and kept norms in one line. */
function norms(score) {
  const norm = (verdict, words) => element("li", { class: verdict }, mark(verdict), element("span", {}, words));
  const keys = (every) => every.map(({ key }) => named(key).toLowerCase()).join(", ");
  const broken = score.norms.filter((each) => each.kept === false);
  const kept = keys(score.norms.filter((each) => each.kept));
  const open = score.norms.filter((each) => each.kept === null);
  const reasons = new Set(open.map(({ why }) => why));
  const looked = faces(score.face);
  return [
    ...broken.map(({ key, sentence }) => norm("broken", sentence || named(key))),
    ...[...reasons].map((reason) => {
      const every = keys(open.filter(({ why }) => why === reason));
      return norm("open", `Not checked: ${every}${reason ? ` (${reason})` : ""}`);
    }),
    ...(looked ? [norm(score.face.found ? "kept" : "open", looked)] : []),
    ...(kept ? [norm("kept", `Checked, nothing wrong: ${kept}`)] : []),
  ];
}

function picture(image, ...over) {
  const node = element("div", { class: "picture" }, image, ...over);
  node.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
  return node;
}

/** Two pictures on top of each other, divided by a line that a slider moves. */
function comparison(before, after, from, to) {
  after.className = "part";
  const slider = element("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": "Before and after" });
  const label = (words, value) => element("span", { class: "label" }, `${words} ${points(value)}`);
  const node = picture(before, after, element("div", { class: "line" }), slider, label("Before", from), label("After", to));
  const move = () => {
    node.style.setProperty("--at", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `${slider.value} % before`);
  };
  slider.addEventListener("input", move);
  move();
  return node;
}
