"""Every default of the pipeline, once, with its origin.

The pipeline's signature, the command line and the documentation read these frozen dataclasses, so all of
them show the same number. Nothing here imports TensorFlow: compiling the pipeline must not need it.

Sources named below:

* NIMA: Talebi and Milanfar, "NIMA: Neural Image Assessment", 2018, https://arxiv.org/abs/1709.05424
* SEMD: Hou, Yu and Samaras, "Squared Earth Mover's Distance-based Loss for Training Deep Neural
  Networks", 2016, https://arxiv.org/abs/1611.05916
* AVA: Murray, Marchesotti and Perronnin, "AVA: A large-scale database for aesthetic visual analysis", 2012
"""

import re
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from components.scorer.quoting import shown

SCORES = tuple(range(1, 11))
"""The ten scores a rater can give; a photo's label is its distribution of votes over them."""

RatingFormat = Literal["auto", "ratings", "wide", "counts", "means", "ava", "idealo"]
Start = Literal["autoencoder", "denoising", "imagenet", "none"]
Scaling = Literal["backbone", "tf", "torch", "caffe", "none"]
Fitting = Literal["auto", "gradient", "closed"]
Devices = Literal["one", "all", "workers"]
FacePrecision = Literal["int8", "float16", "float32"]
FacePreprocessing = Literal["facenet", "arcface", "vggface", "tf", "torch", "none"]
ChampionMode = Literal["non-inferiority", "superiority"]
GateKey = Literal[
    "new_labels", "label_drift", "photo_drift", "leakage",  # of the data, before anything is trained
    "test_photos", "srcc", "emd", "emd_floor", "spread", "slope", "outside",
    "champion_srcc", "champion_lcc", "champion_emd",
    "slice_floor", "slice_gap",
    "blur", "darkening", "overexposure", "compression", "noise", "mirror", "shift", "reencoding", "perturbation",
    "batch", "agreement", "latency", "size", "fresh_process",
]  # fmt: skip
"""The gates, by the names under which ``decision.json`` lists them and ``warn_only`` takes them."""


@dataclass(frozen=True)
class Ingestion:
    """From photos and ratings to a data set."""

    rating_format: RatingFormat = "auto"  # recognised from the file's header, its cells or its shape
    rating_scale: str = (
        "auto"  # lowest and highest score that people could give, such as 1-5; recognised from the scores
    )
    ava_tags: tuple[int, ...] = (17, 47)  # AVA's semantic tags Portraiture and Self Portrait (AVA, tags.txt)
    minimum_raters: int = 1  # a photo with fewer is left out; raise it where single votes are unreliable
    rater_std: float = 1.9  # of a photo's scores, where a file gives means alone: pooled over MEBeauty's 48,427 ratings
    minimum_side: int = 64  # pixels; below it a portrait shows no face that can be judged
    maximum_pixels: int = 100_000_000  # twice the 50 MP of phones: more may be a bomb. Pillow opens 178,956,970
    shorter_side: int = 320  # pixels; a quarter more than the 256 that the scorer reads (NIMA, section III)
    jpeg_quality: int = 92  # of the stored photo: re-encoding moves a score less than the raters' noise
    maximum_left_out: float = 0.1  # share of photos; more says that the input is wrong, not the photos
    validation_share: float = 0.1
    test_share: float = 0.15
    # Of 256 bits of the perceptual hash. Measured: re-encoding at quality 30, halving and 10 % more or less light move
    # it by at most 22, trimming 3 % of a portrait's width and height by at most 40 (99 %); no two different photos
    # came nearer than 64 among 2 million pairs of portraits, nor than 50 among 18 million pairs of aligned faces.
    duplicate_distance: int = 40
    beam_options: str = ""  # options of an Apache Beam runner; empty: a process pool on this machine


@dataclass(frozen=True)
class Faces:
    """What finds faces and reads them, for ingestion, which keeps both files with the data set."""

    face_detector: str = ""  # URI of YuNet's ONNX file; "": faces are not looked for
    face_detector_sha256: str = ""  # that it has to have; "": any
    face_embedder: str = ""  # URI of a .keras, .tflite or .onnx file, or deepface:NAME; "": faces are not read
    face_embedder_sha256: str = ""  # that it has to have, of deepface's networks the weights; "": any
    face_preprocessing: FacePreprocessing = "facenet"  # of a crop's pixels, as the embedder was trained
    face_layers: tuple[str, ...] = ()  # of a .keras file, read in place of its output; of maps, means and deviations
    # Of each crop that is read, the share of its side that ArcFace's template takes. By cross-validation with FaceNet
    # on 1,989 portraits: LCC .779 by one crop with the hair, .787 with one of the face alone beside it.
    face_scales: tuple[float, ...] = (0.8, 1.1)
    # Of the weights of an embedder that comes as Keras. With 8 bits FaceNet reads a face three times as fast as with
    # 16, and cross-validation on 1,989 portraits has the same LCC: .7888 and .7885, .7902 and .7900 by seed.
    face_precision: FacePrecision = "int8"
    face_mirror: bool = True  # average what is read of a face and of its mirror image


@dataclass(frozen=True)
class Pretraining:
    """From unlabelled photos to an encoder."""

    start: Start = "autoencoder"
    weights: str = ""  # URI of a .keras or .weights.h5 file that the encoder starts from
    weights_sha256: str = ""  # that it has to have; "": any
    backbone: str = "MobileNet"  # any name in keras.applications (NIMA, table I: the cheapest that is as good)
    backbone_options: dict[str, Any] = field(default_factory=dict)  # e.g. {"alpha": 0.25}
    scaling: Scaling = "backbone"  # of pixels; "backbone": as keras.applications defines it for this backbone
    crop: int = 224  # pixels: the side of the square that the network reads (NIMA, section III)
    epochs: int = 20
    learning_rate: float = 1e-3  # Adam's default
    batch_size: int = 32
    noise: float = 0.1  # standard deviation added to the input of the denoising autoencoder, of a range of 1
    seed: int = 1

    @property
    def unsupervised(self) -> bool:
        """Whether the pipeline itself teaches the encoder, on photos without labels."""
        return self.start in ("autoencoder", "denoising")


@dataclass(frozen=True)
class Training:
    """From rated photos and an encoder to a scorer."""

    # "closed": the head in closed form, on features of the network as it is; "gradient": head, then network, by epochs;
    # "auto": closed where an embedding of the face is read. On 1,989 portraits with FaceNet: SRCC .784 against .72
    fitting: Fitting = "auto"
    pairs: int = 1024  # components of the features whose pairs the closed form weighs
    dropout: float = 0.75  # before the ten-way softmax (NIMA, section III)
    head_epochs: int = 10
    head_learning_rate: float = 1e-3
    epochs: int = 15
    # Of the whole network. On 167 validation portraits MobileNetV2's least loss in 15 epochs: with averaging .0177,
    # without .0180; at 3e-5 .0187 and .0185.
    learning_rate: float = 1e-4
    batch_size: int = 32
    averaging: float = 2.0  # epochs over which a running mean of the weights reaches, by epochs; 0: the last step's
    correlation_term: float = 0.0  # times 1 less the correlation of a batch's mean scores, added to its squared EMD
    rank_term: float = 0.0  # times the logistic loss of a batch's pairs, likewise
    rater_weighting: bool = True  # a photo counts by the reliability of its mean: less, the fewer people rated it
    rater_smoothing: bool = False  # its votes are drawn toward those of all photos, the more the fewer
    scale: int = 256  # pixels: the photo is scaled to this square, then a random crop of it is read (NIMA)
    camera_faults: float = 0.5  # share of photos slightly blurred or wrongly exposed; without, slight blur gains .14
    embedding_size: int = 512  # principal components of the face's embedding; more than there are: all. 0: not read
    face_view: bool = True  # where faces are known, the aligned one goes through the backbone as well: twice the time
    face_view_scale: float = 0.55  # share of that view's side that ArcFace's template takes: the rest is hair and neck
    job: str = "job"  # column of the attributes that holds the job; without it, or with no value, the job is unknown
    minimum_job: int = 20  # rated training photos of a job; a rarer one counts as unknown
    norms: str = ""  # URI of the client's upload norms; "": those of this project
    mixed_precision: bool = False  # faster on GPUs with tensor cores; of no use on a CPU
    # "all": every GPU of the machine through tf.distribute.MirroredStrategy; "workers": one of several machines (see
    # workers), outside of the pipeline
    devices: Devices = "one"
    seed: int = 1


@dataclass(frozen=True)
class Validation:
    """From a data set and the champion's to whether training is worth its cost."""

    minimum_new_labels: int = 0  # rated photos since the champion; fewer skip the run. 0: a run is wanted as it is
    # Score points (Wasserstein). Ratings on a scale of 0-9 are 1 off; in MEBeauty any one gender or ethnicity alone is
    # at most .74 off the whole, and of two random draws of 100 photos 95 % are within .35.
    maximum_label_drift: float = 0.75
    # Standard deviations: a "medium" shift (Cohen, 1988, section 2.2). In MEBeauty any one gender or ethnicity is
    # within .25 and of two random draws of 100 photos 95 % within .37; photos of another collection are 3 and more off.
    maximum_photo_drift: float = 0.5


@dataclass(frozen=True)
class Evaluation:
    """From a scorer and the test split to the gates."""

    accuracy_threshold: float = 5.5  # the middle of 1-10: high and low quality as NIMA and AVA part them
    bootstrap: int = 1000  # resamples; the 2.5 % tails then rest on 25 of them
    confidence: float = 0.95
    minimum_test_photos: int = 100  # below it the interval of an SRCC of .7 is wider than .2
    minimum_srcc: float = 0.5  # one rater reaches about .6 against the others: much less helps nobody
    maximum_emd: float = 1.5  # score points between the predicted and the true votes
    minimum_spread: float = 0.4  # standard deviation of predictions over that of the truth
    minimum_slope: float = 0.5  # of people's means on predictions; 1 is calibrated, below it scores are too wide
    minimum_outside: float = 0.2  # share of scores outside 4-7 over people's share: collapse leaves none
    # The champion: a challenger may lose at most the margin, of which the data have to be sure. Simulated with 23
    # raters and an SRCC of .7 (tests/benchmarks/gate_power.py): to be let through four times in five, an equal
    # challenger needs 3,500 test photos where it correlates by .8 with the champion, 1,900 by .9, 1,000 by .95. Half
    # the margin needs four times as many: only a challenger most like the champion fits the 4,500 of 30,000 rated.
    champion_mode: ChampionMode = "non-inferiority"  # superiority needs a gain: an equal one, on newer data, stays out
    champion_margin: float = 0.02  # SRCC and LCC
    champion_margin_emd: float = 0.03  # score points: a scorer that loses .02 SRCC to noise loses .028 in EMD
    significance: float = 0.05  # chance of letting through a challenger that is worse by the margin
    # Slices: who is scored too low.
    crossings: tuple[str, ...] = ()  # attributes taken together, e.g. "gender*ethnicity"; each alone is always sliced
    minimum_slice: int = 30  # photos; smaller slices are shown and not judged
    minimum_slice_srcc: float = 0.3
    maximum_slice_gap: float = 0.25  # score points of mean error, people's own ratings allowed for
    # Behaviour on changed photos.
    behaviour_photos: int = 128  # of the test split, drawn by the seed
    # Score points that photos made worse may gain on average: as much as re-encoding at quality 95 moves them.
    maximum_rise: float = 0.05
    behaviour_tolerance: float = 0.2  # score points that a mirror, a pixel's shift or a re-encoding may move a photo
    perturbation_photos: int = 8
    perturbation_budget: float = 2.0  # of 255, at each pixel and colour: below what people see
    maximum_perturbation: float = 1.84  # score points: what the portrait paper reports (4.44 to 6.24 in 100 steps)
    # Serving.
    maximum_latency: float = 250.0  # milliseconds, 95th percentile, one photo at a time on this step's CPU
    maximum_size: float = 200.0  # megabytes of the exported model
    show_photos: bool = False  # in the report: they are people's faces
    seed: int = 1


@dataclass(frozen=True)
class Policy:
    """From gates to a decision."""

    # Only told: photos that changed may be meant, and no scorer of this kind withstands a perturbation made for it.
    warn_only: tuple[GateKey, ...] = ("photo_drift", "perturbation")
    force_publish: bool = False
    force_reason: str = ""


@dataclass(frozen=True)
class Push:
    """From a decision to a published version."""

    model_registry: str = ""  # URL of the Kubeflow Model Registry; "": a platform need not have one


@dataclass(frozen=True)
class Advising:
    """From a photo to the edits that would make it score higher."""

    # Score points: what a change that nobody sees may move a photo, in the gate of behaviour.
    minimum_gain: float = Evaluation.behaviour_tolerance
    # Standard errors: a Student's t of 14 degrees passes 4 by chance once in 1,500 tries.
    noise_multiple: float = 4.0
    # Share of the gain that is left half a step of the slider away; an edit that helps in proportion keeps half or more
    # of the smallest one that is advised, and the scorer's noise takes some of that.
    plateau: float = 0.4
    maximum_difference: float = 30.0  # mean of CIE 1976 ΔE*ab; two missing stops, given back, move L* by 24, to 50
    maximum_clipped: float = 0.05  # share of the photo that gets burnt out, or black: 95 % of portraits have less
    refinements: int = 3  # of the best value among those that are tried first
    scorings: int = 180  # of a photo at most: at 8 ms each, they leave a quarter of two seconds for the rest
    working_side: int = 640  # pixels: half of its width still has the 320 that are scored
    smallest_crop: int = 256  # pixels: what the scorer reads; a narrower crop would be enlarged
    preview_side: int = 640  # pixels of the longer side: fills a phone's screen, in some 60 KB
    preview_quality: int = 85


def scale_limits(rating_scale: str) -> tuple[float, float] | None:
    """The lowest and the highest score of a scale.

    Args:
        rating_scale: such as ``1-5`` or ``0-100``, or ``auto``.

    Returns:
        Both, or None for ``auto``.

    Raises:
        ValueError: it is neither.
    """
    if rating_scale == "auto":
        return None
    found = re.fullmatch(r"\s*(-?\d{1,6}(?:\.\d{1,6})?)\s*-\s*(-?\d{1,6}(?:\.\d{1,6})?)\s*", rating_scale)
    if not found or float(found[1]) >= float(found[2]):
        raise ValueError(
            "rating_scale must be auto, or the lowest and the highest score such as 1-5 or 0-100, "
            f"got {shown(rating_scale)}"
        )
    return float(found[1]), float(found[2])


def from_parameters(settings: type, **parameters: Any) -> Any:
    """Build a settings dataclass from pipeline parameters and check every value.

    Args:
        settings: one of the dataclasses above.
        **parameters: values by field name; fields left out keep their default. Lists become tuples.

    Returns:
        An instance of ``settings``.

    Raises:
        ValueError: a name is unknown, or a value is outside its type, choices or range; the message names
            the parameter, what was expected and what came.
    """
    known = {f.name for f in fields(settings)}
    if unknown := sorted(set(parameters) - known):
        raise ValueError(f"{settings.__name__} has no setting {unknown[0]!r}; expected one of {sorted(known)}")
    hints = get_type_hints(settings)
    checked = {name: _checked(name, value, hints[name]) for name, value in parameters.items()}
    return replace(settings(), **checked)


def among(parameters: dict[str, Any], settings: type, prefix: str = "") -> dict[str, Any]:
    """The parameters that are fields of ``settings``, by field name.

    Several settings share one signature, so fields that would collide carry a prefix there.

    Args:
        parameters: values by parameter name, e.g. the ``locals()`` of a function.
        settings: one of the dataclasses above.
        prefix: where ``prefix + field`` is a parameter, it goes before ``field``.

    >>> among({"epochs": 3, "pretraining_epochs": 5, "photos": "x"}, Pretraining, prefix="pretraining_")
    {'epochs': 5}
    """
    names = {f.name: prefix + f.name if prefix + f.name in parameters else f.name for f in fields(settings)}
    return {field: parameters[name] for field, name in names.items() if name in parameters}


def check_together(pretraining: Pretraining, scale: int) -> None:
    """Refuse settings that are each right but contradict each other.

    Args:
        pretraining: names the crop, the start and the epochs.
        scale: side of the square that photos are scaled to before the crop.

    Raises:
        ValueError: says which two, and what to do.
    """
    if scale < pretraining.crop:
        raise ValueError(f"scale must be at least crop, which is cut from it; got {scale} and {pretraining.crop}")
    if pretraining.weights_sha256 and not pretraining.weights:
        raise ValueError("weights_sha256 is given without weights, whose digest it is")
    if pretraining.unsupervised and pretraining.epochs == 0:
        raise ValueError(
            f"start {pretraining.start!r} needs pretraining_epochs of at least 1, got 0;"
            ' to train nothing, set start to "none"'
        )


def check_policy(policy: Policy) -> None:
    """Refuse to overrule the gates without a reason, or to give a reason that would not be heeded.

    Raises:
        ValueError: says what to give.
    """
    reason = policy.force_reason.strip()
    if policy.force_publish and not reason:
        raise ValueError("force_publish needs force_reason, which is written into the decision and the model card")
    if reason and not policy.force_publish:
        raise ValueError("force_reason is given, but force_publish is off: set it too, or leave the reason out")


def check_faces(faces: Faces) -> None:
    """Refuse settings of faces that contradict each other.

    Raises:
        ValueError: says which, and what to do.
    """
    if faces.face_embedder and not faces.face_detector:
        raise ValueError("face_embedder needs face_detector, which finds the faces that it reads: give both or none")
    for name in ("face_detector", "face_embedder"):
        if getattr(faces, f"{name}_sha256") and not getattr(faces, name):
            raise ValueError(f"{name}_sha256 is given without {name}, whose digest it is: give both or none")
    if not faces.face_scales:
        raise ValueError(
            "face_scales must name at least one scale of a face's crop, got []: leave it out for the default"
        )
    if faces.face_layers and not (
        faces.face_embedder.endswith(".keras") or faces.face_embedder.startswith("deepface:")
    ):
        raise ValueError(
            f"face_layers names layers of a .keras file, but face_embedder is {faces.face_embedder!r}: give such a"
            " file, or leave face_layers empty to take the embedder's output"
        )


def as_parameters(settings: Any) -> dict[str, Any]:
    """A settings instance as plain JSON values (tuples become lists)."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(settings).items()}


_RANGES = {
    "validation_share": (0, 0.5), "test_share": (0, 0.5), "maximum_left_out": (0, 1), "dropout": (0, 0.99),
    "camera_faults": (0, 1), "pairs": (1, 10_000), "embedding_size": (0, 100_000),
    "face_view_scale": (0.1, 2), "minimum_job": (1, 1_000_000),
    "jpeg_quality": (1, 100), "minimum_side": (1, 10_000), "shorter_side": (32, 4096), "minimum_raters": (1, 10_000),
    "rater_std": (0, 4.5), "face_scales": (0.1, 2), "ava_tags": (1, 66),
    "duplicate_distance": (0, 64), "maximum_pixels": (10_000, 178_956_970), "crop": (32, 1024), "scale": (32, 1024),
    "epochs": (0, 10_000), "head_epochs": (0, 10_000), "batch_size": (1, 4096), "learning_rate": (0, 10),
    "head_learning_rate": (0, 10), "averaging": (0, 1000), "correlation_term": (0, 100), "rank_term": (0, 100),
    "noise": (0, 1), "seed": (0, 2**31 - 1), "accuracy_threshold": (1, 10),
    "minimum_srcc": (-1, 1), "maximum_emd": (0, 9), "minimum_spread": (0, 10), "champion_margin": (0, 2),
    "bootstrap": (1, 1_000_000), "confidence": (0.5, 0.9999), "minimum_test_photos": (1, 1_000_000),
    "minimum_slope": (0, 10), "minimum_outside": (0, 10), "champion_margin_emd": (0, 9), "significance": (0.0001, 0.5),
    "minimum_slice": (2, 1_000_000), "minimum_slice_srcc": (-1, 1), "maximum_slice_gap": (0, 9),
    "behaviour_photos": (2, 10_000), "maximum_rise": (0, 9), "behaviour_tolerance": (0, 9),
    "perturbation_photos": (1, 10_000),
    "perturbation_budget": (0, 255), "maximum_perturbation": (0, 9), "maximum_latency": (0, 600_000),
    "maximum_size": (0, 100_000), "minimum_new_labels": (0, 100_000_000), "maximum_label_drift": (0, 9),
    "maximum_photo_drift": (0, 100),
    "minimum_gain": (0, 9), "noise_multiple": (0, 100), "plateau": (0, 1), "maximum_difference": (0, 100),
    "maximum_clipped": (0, 1), "refinements": (0, 10), "scorings": (100, 10_000), "working_side": (32, 4096),
    "smallest_crop": (16, 4096), "preview_side": (16, 4096), "preview_quality": (1, 100),
}  # fmt: skip


def _checked(name: str, value: Any, hint: Any) -> Any:
    """The value in the field's own type, or a ValueError that says what was expected."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{name} must be one of {list(get_args(hint))}, got {shown(value)}")
        return value
    if get_origin(hint) is tuple:
        return _checked_list(name, value, get_args(hint)[0])
    if hint in (int, float) and not isinstance(value, bool) and isinstance(value, int | float):
        if hint is int and value != int(value):
            raise ValueError(f"{name} must be a whole number, got {shown(value)}")
        low, high = _RANGES[name]
        if not low <= value <= high:
            raise ValueError(f"{name} must be from {low} to {high}, got {shown(value)}")
        return hint(value)
    expected = get_origin(hint) or hint
    if name == "rating_scale" and isinstance(value, str):
        scale_limits(value)
    if not isinstance(value, expected) or (expected is not bool and isinstance(value, bool)):
        raise ValueError(f"{name} must be {expected.__name__}, got {shown(value)}")
    return value


def _checked_list(name: str, value: Any, each: Any) -> tuple:
    """The values of a list parameter as a tuple."""
    if each in (int, float):
        kind = "whole numbers" if each is int else "numbers"
        if not isinstance(value, list | tuple) or any(not isinstance(n, int | float) for n in value):
            raise ValueError(f"{name} must be a list of {kind}, got {shown(value)}")
        return tuple(_checked(name, number, each) for number in value)
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{name} must be a list of texts, got {shown(value)}")
    if get_origin(each) is Literal and (unknown := [text for text in value if text not in get_args(each)]):
        raise ValueError(f"{name} must hold only {list(get_args(each))}, got {shown(unknown[0])}")
    return tuple(value)
