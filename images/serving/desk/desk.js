/** The review desk: takes photos, has them scored and lists them by rank. Photos are sent only to this server. */

import { csv } from "./csv.js";
import { Opened } from "./opened.js";
import { Photo, compareSpreads } from "./photo.js";
import { small } from "./pictures.js";
import { Queue } from "./queue.js";
import { ranked } from "./ranking.js";
import { Row } from "./row.js";
import { Problem, Server } from "./server.js";
import { chosen, dropped, pasted } from "./taking.js";
import { counted, points } from "./words.js";

const AHEAD = "800px"; // margin around the visible part of the list within which thumbnails are made
const MEGABYTE = 1e6;

const FILTERS = {
  all: () => true,
  broken: (photo) => photo.broken.length > 0,
  unsure: (photo) => photo.unsure,
  failed: (photo) => photo.state === "failed",
};
const SORTS = {
  best: (one, other) => other.score.mean - one.score.mean,
  worst: (one, other) => one.score.mean - other.score.mean,
  spread: (one, other) => other.score.std - one.score.std,
  name: (one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }),
};

const at = (id) => document.getElementById(id);

class Desk {
  job = "";
  #photos = [];
  #rows = new Map();
  #places = new Map();
  #shown = [];
  #filter = "all";
  #sort = "best";
  #busy = 0; // seconds that a busy server asked to wait
  #drawing = false;
  #server = new Server({ askKey, wait: (seconds) => this.#hold(seconds) });
  #opened = new Opened(this.#server, this);
  #about = null;
  #queue = null;
  #early = []; // photos added before the server has described itself
  #seen = new IntersectionObserver((entries) => this.#look(entries), { rootMargin: AHEAD });

  // Interface for the opened photo

  shown() {
    return this.#shown.filter((photo) => photo.state === "scored");
  }

  place(photo) {
    return this.#places.get(photo);
  }

  focus(photo) {
    const button = this.#rows.get(photo)?.button ?? at("add");
    button.focus();
    button.scrollIntoView({ block: "nearest" });
  }

  remove(photo) {
    this.#photos.splice(this.#photos.indexOf(photo), 1);
    this.#drop(photo);
    this.#draw();
  }

  // The server

  /** Requests the server's description, then opens the desk. */
  async start() {
    notice("");
    at("again").hidden = true;
    try {
      this.#about = await this.#server.about();
    } catch (error) {
      notice(error instanceof Problem ? error.message : "The server's answer cannot be read.");
      at("again").hidden = false;
      return;
    }
    const { name, version, channel, jobs, limits } = this.#about;
    const told = [name, version === null ? "" : `version ${version}`, channel ?? ""].filter(Boolean);
    at("model").textContent = told.join(" · ");
    at("limits").textContent = `JPEG, PNG, WebP, HEIC and others, up to ${Math.floor(limits.bytes / MEGABYTE)}\u00a0MB each`;
    at("job").append(...jobs.map((job) => new Option(job, job)));
    at("job-choice").hidden = !jobs.length;
    this.#queue = new Queue(this.#server, limits, this.#photos, {
      changed: () => this.#change(),
      refused: (problem) => notice(problem.message),
    });
    this.#draw();
    this.add(this.#early.splice(0));
  }

  #hold(seconds) {
    this.#busy = seconds;
    this.#change();
  }

  // Adding and removing photos

  /** Adds photos to the desk and has them scored. Photos that are already there are skipped. */
  add(given) {
    if (!this.#queue) {
      this.#early.push(...given);
      return;
    }
    const known = new Set(this.#photos.map(likeness));
    const fresh = given.map(({ file, name }) => new Photo(file, name)).filter((photo) => {
      const like = likeness(photo);
      return !known.has(like) && known.add(like);
    });
    const again = given.length - fresh.length;
    notice(again ? `${counted(again, "photo is", "photos are")} on the desk already.` : "");
    if (!fresh.length) return;
    this.#photos.push(...fresh);
    for (const photo of fresh) {
      const row = new Row(photo, (opened) => this.#opened.open(opened), (failed) => this.#retry(failed));
      this.#rows.set(photo, row);
      this.#seen.observe(row.node);
    }
    say(`Scoring ${counted(fresh.length, "photo")}`);
    this.#queue.start(this.job);
  }

  clear() {
    this.#queue.stop();
    for (const photo of this.#photos.splice(0)) this.#drop(photo);
    this.#opened.forget();
    this.#filter = "all";
    notice("");
    this.#draw();
    at("choose").focus();
  }

  #drop(photo) {
    const { node } = this.#rows.get(photo);
    this.#seen.unobserve(node);
    node.remove();
    this.#rows.delete(photo);
    if (photo.picture) URL.revokeObjectURL(photo.picture);
  }

  #retry(photo) {
    photo.reset();
    this.#queue.start(this.job);
  }

  /** Pauses or resumes scoring. */
  toggle() {
    if (this.#queue.running) this.#queue.stop();
    else this.#queue.start(this.job);
  }

  /** Scores all photos for another job. */
  choose(job) {
    this.job = job;
    this.anew();
  }

  /** Scores all photos again. */
  anew() {
    this.#opened.forget();
    this.#queue.stop();
    for (const photo of this.#photos) photo.reset();
    if (this.#photos.length) this.#queue.start(this.job);
  }

  // The list

  filter(name) {
    this.#filter = name;
    this.#draw();
  }

  sort(name) {
    this.#sort = name;
    this.#draw();
  }

  download() {
    const scored = [...this.#places.keys()];
    const others = this.#photos.filter((photo) => photo.state !== "scored");
    const url = URL.createObjectURL(new Blob([csv([...scored, ...others], this.#places)], { type: "text/csv;charset=utf-8" }));
    const { name, version } = this.#about;
    const parts = [name, version === null ? "" : `v${version}`, this.job.replaceAll(" ", "-"), "ranking"];
    const link = document.createElement("a");
    link.href = url;
    link.download = `${parts.filter(Boolean).join("-")}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 1000); // after the download has begun
  }

  /** Draws once at the next frame, for any number of changes before it. */
  #change() {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      this.#draw();
    });
  }

  #draw() {
    const scored = this.#photos.filter((photo) => photo.state === "scored");
    compareSpreads(scored);
    this.#places = ranked(scored);
    const others = this.#photos.filter((photo) => photo.state !== "scored");
    const failed = others.filter((photo) => photo.state === "failed");
    const order = [...scored.sort(SORTS[this.#sort]), ...others.filter((photo) => photo.state !== "failed"), ...failed];
    this.#shown = order.filter(FILTERS[this.#filter]);
    for (const [id, shown] of Object.entries({ empty: !order.length, tools: order.length, results: order.length })) {
      at(id).hidden = !shown;
    }
    at("download").disabled = !scored.length;
    this.#progress(scored.length, failed.length);
    this.#filters();
    this.#tell(scored);
    this.#list();
  }

  #progress(scored, failed) {
    const all = this.#photos.length;
    const left = all - scored - failed;
    const { running } = this.#queue;
    if (!left && !at("progress").hidden) say(`${counted(scored, "photo")} scored${failed ? `, ${failed} not` : ""}`);
    at("progress").hidden = !left;
    Object.assign(at("bar"), { max: all || 1, value: scored + failed });
    const told = [running ? "" : "Stopped: ", `${scored} of ${counted(all, "photo")} scored`, failed ? `, ${failed} not` : ""];
    if (running && this.#busy) told.push(`. The server is busy and is asked again in ${Math.ceil(this.#busy)} s`);
    at("count").textContent = told.join("");
    at("stop").textContent = running ? "Stop" : "Score the rest";
  }

  #filters() {
    for (const button of at("filters").children) {
      const { filter } = button.dataset;
      const number = this.#photos.filter(FILTERS[filter]).length;
      button.setAttribute("aria-pressed", filter === this.#filter);
      button.hidden = !number && filter !== "all" && filter !== this.#filter;
      button.querySelector("span").textContent = number;
    }
  }

  /** Explains shared ranks if there are any, and warns if the server changed its model between scores. */
  #tell(scored) {
    const tied = scored.filter((photo) => this.#places.get(photo).tied);
    const error = tied[0]?.score.error;
    at("told").textContent = tied.length
      ? `${counted(tied.length, "photo")} share ranks: they differ by less than the scorer can tell (± ${points(error ?? 0)}).`
      : "";
    const versions = [...new Set(scored.map((photo) => photo.version))].sort((one, other) => one - other);
    at("mixed").hidden = versions.length < 2;
    at("mixed").firstElementChild.textContent =
      `Versions ${versions.join(" and ")} of the model have scored these photos, so their scores do not compare.`;
  }

  #list() {
    const list = at("list");
    const focused = list.contains(document.activeElement) ? document.activeElement : null;
    const wanted = this.#shown.map((photo) => this.#rows.get(photo).node);
    const keep = new Set(wanted);
    for (const node of [...list.children]) if (!keep.has(node)) node.remove();
    wanted.forEach((node, place) => {
      if (list.children[place] !== node) list.insertBefore(node, list.children[place] ?? null);
    });
    const byRank = this.#sort === "best" || this.#sort === "worst";
    const rank = (place) => (byRank ? this.#places.get(this.#shown[place])?.rank : undefined);
    const joined = (one, other) => rank(one) !== undefined && rank(one) === rank(other);
    this.#shown.forEach((photo, place) => {
      const joins = { before: joined(place, place - 1), after: joined(place, place + 1) };
      this.#rows.get(photo).update(this.#places.get(photo), joins);
    });
    if (focused?.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
  }

  /** Moves the focus among the photos of the list. */
  move(event) {
    const step = { ArrowUp: -1, ArrowDown: 1, Home: -Infinity, End: Infinity }[event.key];
    if (!step || !event.target.matches(".name")) return;
    const buttons = [...at("list").querySelectorAll(".name:enabled")];
    const place = Math.min(Math.max(buttons.indexOf(event.target) + step, 0), buttons.length - 1);
    event.preventDefault();
    buttons[place].focus();
  }

  /** Makes thumbnails of the photos that scroll into view. */
  #look(entries) {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      const row = [...this.#rows.values()].find(({ node }) => node === target);
      if (row && row.photo.picture === undefined) this.#picture(row);
    }
  }

  async #picture(row) {
    const { photo } = row;
    photo.picture = null;
    photo.picture = await small(photo.file, () => row.node.isConnected);
    if (photo.picture !== undefined) row.picture(photo.picture);
    if (photo.picture && !this.#rows.has(photo)) URL.revokeObjectURL(photo.picture);
  }
}

function likeness({ file, name }) {
  return [name, file.size, file.lastModified].join("|");
}

function notice(words) {
  at("notice").textContent = words;
  at("notice").hidden = !words;
}

/** Announces a text to screen readers. */
function say(words) {
  at("spoken").textContent = words;
}

/** Asks the person for the API key. Null if none is entered. */
function askKey(refused) {
  const dialog = at("locked");
  at("locked-why").textContent = refused
    ? "The server did not accept this key. Is it complete?"
    : "The key is kept in this page's memory, until you close or reload it.";
  at("key").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener("close", () => done(dialog.returnValue || null), { once: true }));
}

const desk = new Desk();

at("again").addEventListener("click", () => desk.start());
for (const id of ["add", "choose"]) at(id).addEventListener("click", () => at("files").click());
at("files").addEventListener("change", ({ target }) => {
  desk.add(chosen(target.files));
  target.value = ""; // so that the same file can be chosen again
});
at("download").addEventListener("click", () => desk.download());
at("clear").addEventListener("click", () => desk.clear());
at("anew").addEventListener("click", () => desk.anew());
at("stop").addEventListener("click", () => desk.toggle());
at("job").addEventListener("change", ({ target }) => desk.choose(target.value));
at("sort").addEventListener("change", ({ target }) => desk.sort(target.value));
at("filters").addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  if (button) desk.filter(button.dataset.filter);
});
at("list").addEventListener("keydown", (event) => desk.move(event));
at("forgo").addEventListener("click", () => at("locked").close());
at("locked").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  at("locked").close(at("key").value.trim());
});

document.addEventListener("paste", ({ clipboardData }) => {
  if (clipboardData?.files.length) desk.add(pasted(clipboardData.files));
});
const files = ({ dataTransfer }) => dataTransfer?.types.includes("Files") && !document.querySelector("dialog[open]");
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  at("over").hidden = !files(event);
});
document.addEventListener("dragleave", ({ relatedTarget }) => {
  if (!relatedTarget) at("over").hidden = true;
});
document.addEventListener("drop", async (event) => {
  event.preventDefault();
  at("over").hidden = true;
  if (!files(event)) return;
  try {
    desk.add(await dropped(event.dataTransfer));
  } catch {
    notice("A dropped folder could not be read. Choose its photos instead.");
  }
});

desk.start();
