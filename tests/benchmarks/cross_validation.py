"""Agreement with people of scorers with more and fewer face inputs: cross-validation of the ridge head.

    python -m tests.benchmarks.cross_validation WORK --photos mebeauty/photos --ratings mebeauty/ratings.csv \\
        --attributes mebeauty/photos.csv --set start=imagenet weights=mobilenet_v2_imagenet.keras scaling=torch \\
        face_detector=yunet.onnx face_embedder=facenet_128.keras 'face_layers=["AvgPool", "Block17_10_Activation"]'

``protocol`` describes folds, intervals and stored results. Prints a table, and writes ``cross_validation.json`` (means
and intervals, no photo) and ``cross_validation.png``.

The variants differ in the inputs (the photo, the face's view, the embedding), the size of the embedding (table 2 of the
portrait paper), the use of pairs of features, and the fraction of the photos that the head is fitted to.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from components.scorer.faces.face_inputs import EMBEDDING
from components.scorer.settings import SCORES, Training
from tests.benchmarks import protocol
from tests.benchmarks.protocol import BEST, FACE, WHOLE, Variant

VARIANTS = (
    BEST,
    WHOLE,
    FACE,
    Variant("photo, face", view=True),
    Variant("photo, embedding", embedding=512),
    *(Variant(f"photo, face, embedding of {size}", view=True, embedding=size) for size in (32, 64, 128, 256)),
    replace(BEST, name="… features alone, no pairs", ratio=0.0),
    *(replace(BEST, name=f"… {share:.0%} of the photos", share=share) for share in (0.1, 0.25, 0.5)),
)


def main() -> None:
    """Compute missing results, print the table, and write the results."""
    parser = protocol.parser(__doc__)
    parser.add_argument("--first", type=int, default=len(VARIANTS), help="variants to run; the best is the first")
    options = parser.parse_args()
    work = Path(options.work)
    parameters, training = protocol.settings(options)
    inputs, known = protocol.features(work, options, parameters)
    predicted, raters = {}, protocol.raters(work)
    for variant in VARIANTS[: options.first]:
        if (variant.view and "pooled_face" not in inputs) or (variant.embedding and EMBEDDING not in inputs):
            continue
        fit_and_predict = protocol.learning(variant, inputs, known.votes, training, raters)
        predicted[variant.name] = protocol.held_out(
            work / "predicted", variant.name, known, options.seeds, fit_and_predict
        )
        print(protocol.line(variant.name, protocol.figures(known.votes, predicted[variant.name])), flush=True)
    variants = protocol.compared(known, predicted, WHOLE.name if WHOLE.name in predicted else BEST.name)
    best = predicted[BEST.name if BEST.name in predicted else WHOLE.name] @ np.array(SCORES)
    results = protocol.about(known, predicted, parameters) | {
        "closed_form": {"pairs": Training().pairs},
        "variants": variants,
        "slices": _slices(known, best.mean(0)),
    }
    print(f"\nagainst the whole photo alone, paired, 95 % by resampling groups\n{protocol.gains(variants)}")
    print(f"\nworst slice by signed mean error: {results['slices'][0]}")
    protocol.write(work, "cross_validation", results, protocol.draw(variants, len(known.votes)))


def _slices(known: protocol.Known, scores: np.ndarray) -> list[dict[str, Any]]:
    """Return the signed mean error for each value of each attribute and of all attributes together, largest first."""
    columns, truth = dict(known.slices), known.truth
    if len(columns) > 1:
        combined = [" ".join(values) for values in zip(*known.slices.values(), strict=True)]
        columns[" and ".join(known.slices)] = np.array(combined)
    slices = [
        {"slice": f"{column}: {value}", "photos": int((values == value).sum()),
         "error": float((scores - truth)[values == value].mean())}
        for column, values in columns.items() for value in sorted(set(values))
    ]  # fmt: skip
    return sorted(slices, key=lambda entry: -abs(entry["error"]))


if __name__ == "__main__":
    main()
