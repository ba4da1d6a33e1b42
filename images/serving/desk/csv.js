/** The ranking as a CSV file for spreadsheets. */

const COLUMNS = ["rank", "name", "mean", "uncertainty", "std", ...Array.from({ length: 10 }, (_, at) => `p${at + 1}`)];
const HEAD = [...COLUMNS, "face", "broken_norms", "error"];
const MARK = "\ufeff"; // byte order mark: without it, spreadsheets on Windows do not recognise UTF-8

/**
 * Rows of photos as CSV (RFC 4180, UTF-8 with a byte order mark).
 *
 * @param photos in the order of the rows.
 * @param places ranks by photo, see `ranked`.
 */
export function csv(photos, places) {
  return MARK + [HEAD, ...photos.map((photo) => row(photo, places.get(photo)))].map(line).join("");
}

function row(photo, place) {
  const { score } = photo;
  if (!score) return ["", photo.name, ...Array(HEAD.length - 3), photo.problem?.message ?? "not scored"];
  const figures = [score.mean, score.error, score.std, ...score.distribution].map(short);
  const face = score.face ? (score.face.found ? "yes" : "no") : "";
  const broken = photo.broken.map((norm) => norm.key).join(" ");
  return [place.rank, photo.name, ...figures, face, broken, ""];
}

function short(figure) {
  return figure === null || figure === undefined ? "" : Number(figure.toFixed(4));
}

function line(cells) {
  return `${cells.map((cell) => (typeof cell === "number" ? cell : quoted(cell ?? ""))).join(",")}\r\n`;
}

/** Text of a cell. A leading apostrophe keeps spreadsheets from reading the text as a formula. */
function quoted(text) {
  const plain = /^\s*[=+\-@\t\r\n]/.test(text) ? `'${text}` : text;
  return /[",\r\n;]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
}
