/** Elements and drawings, made without markup in strings, so that no name or sentence is parsed as HTML. */

const SVG = "http://www.w3.org/2000/svg";
const STEP = 24, FLOOR = 36, HEIGHT = 58; // chart of votes: width of a score, baseline of the bars, total height
const FULLEST = 0.4; // share of votes of a bar of full height; a larger share scales the whole chart down

/** An element with attributes and children. Attributes that are null or false are left out. */
export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

function drawn(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/**
 * Ten votes as bars over the scale from 1 to 10, with the mean and its uncertainty beneath.
 *
 * @param score `{distribution, mean, std, error}`.
 * @param numbers true to label every score of the scale, false to label only its ends.
 */
export function votes({ distribution, mean, std, error }, numbers = false) {
  const top = Math.max(FULLEST, ...distribution);
  const bars = distribution.map((share, at) => {
    const height = (FLOOR * share) / top;
    return `M${at * STEP + 2} ${FLOOR}v${-height.toFixed(2)}h${STEP - 4}v${height.toFixed(2)}z`;
  });
  const place = (value) => Math.min(Math.max((value - 0.5) * STEP, 0), 10 * STEP).toFixed(1);
  const label = `Expected votes: mean ${mean.toFixed(1)}, spread ${std.toFixed(1)}, most at ${1 + distribution.indexOf(Math.max(...distribution))}`;
  const names = numbers ? distribution.map((_, at) => at + 1) : [1, 10];
  return drawn(
    "svg", { viewBox: `0 0 ${10 * STEP} ${HEIGHT}`, role: "img", "aria-label": label },
    drawn("path", { class: "bars", d: bars.join("") }),
    drawn("path", { class: "scale", d: `M0 ${FLOOR}H${10 * STEP}` }),
    error ? drawn("path", { class: "whisker", d: `M${place(mean - error)} ${FLOOR + 6}H${place(mean + error)}` }) : null,
    drawn("circle", { class: "mean", cx: place(mean), cy: FLOOR + 6, r: 2.5 }),
    ...names.map((name) => filled(drawn("text", { x: place(name), y: HEIGHT - 1 }), {}, [String(name)])),
  );
}

const MARKS = { kept: "m2 8.5 4 4 8-9", broken: "m3 3 10 10M13 3 3 13", open: "M3 8h10" };

/** The sign of a norm: `kept`, `broken` or `open` (not checked). */
export function mark(verdict) {
  return drawn("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, drawn("path", { d: MARKS[verdict] }));
}
