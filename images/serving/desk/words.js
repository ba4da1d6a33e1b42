/** Numbers and names as text for people. */

/** A score on the scale from 1 to 10. */
export function points(value) {
  return value.toFixed(1);
}

/** A difference of scores, always with its sign. */
export function gain(value) {
  return `${value < 0 ? "\u2212" : "+"}${Math.abs(value).toFixed(2)}`;
}

/** `several_faces` → `Several faces`. */
export function named(key) {
  const words = key.replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1);
}

/** `1 photo`, `2 photos`. */
export function counted(number, one, several = `${one}s`) {
  return `${number.toLocaleString()} ${number === 1 ? one : several}`;
}

/** The result of the face detector as text, or null if there is no detector. */
export function faces(face) {
  if (!face) return null;
  if (!face.found) return "No face found";
  return face.count > 1 ? `${face.count} faces found` : "Face found";
}
