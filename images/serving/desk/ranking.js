/** The ranking of scored photos, by the rule of `POST /rank`, over the scores of many requests. */

/**
 * Rank photos by their mean scores, best first.
 *
 * @param photos scored photos, each with `score.mean` and `score.error`.
 * @returns a Map from photo to `{rank, tied}`, in the order of the ranks.
 */
export function ranked(photos) {
  const order = [...photos].sort((one, other) => other.score.mean - one.score.mean);
  const places = new Map();
  let first = null;
  order.forEach((photo, at) => {
    const apart = first === null || !within(first.photo, photo);
    if (apart) first = { photo, rank: at + 1 };
    else places.get(first.photo).tied = true;
    places.set(photo, { rank: first.rank, tied: !apart });
  });
  return places;
}

/** Whether the difference of two photos is within the scorer's uncertainty. */
function within(one, other) {
  const error = one.score.error ?? 0;
  return Math.abs(one.score.mean - other.score.mean) <= error;
}
