"""Settings of the pipeline as frozen dataclasses: every default once, with its origin.

The pipeline's signature, the command line and the documentation take their defaults from these dataclasses. The module
does not import TensorFlow, as compiling the pipeline must not need it.

Sources named below:

* NIMA: Talebi and Milanfar, "NIMA: Neural Image Assessment", 2018, https://arxiv.org/abs/1709.05424
* SEMD: Hou, Yu and Samaras, "Squared Earth Mover's Distance-based Loss for Training Deep Neural
  Networks", 2016, https://arxiv.org/abs/1611.05916
* AVA: Murray, Marchesotti and Perronnin, "AVA: A large-scale database for aesthetic visual analysis", 2012
"""

from dataclasses import dataclass, field
from typing import Any, Literal

SCORES = tuple(range(1, 11))
"""The ten scores that a rater can give; a photo's label is the distribution of its votes over these scores."""
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
"""Keys of the gates in ``decision.json`` and ``warn_only``."""


@dataclass(frozen=True)
class Ingestion:
    """Settings of ingestion, which makes a data set from photos and ratings."""

    rating_format: RatingFormat = "auto"  # "auto": detected from the file's header, its cells or its shape
    rating_scale: str = (
        "auto"  # lowest and highest score that raters could give, such as 1-5; "auto": detected from the scores
    )
    ava_tags: tuple[int, ...] = (17, 47)  # AVA's semantic tags Portraiture and Self Portrait (AVA, tags.txt)
    minimum_raters: int = 1  # photos with fewer raters are excluded; raise it if single votes are unreliable
    # Standard deviation of a photo's scores, for files with means only: pooled over MEBeauty's 48,427 ratings.
    rater_std: float = 1.9
    minimum_side: int = 64  # pixels; a smaller portrait shows no face that can be judged
    # Twice the 50 MP of phones: a larger photo may be a decompression bomb. Pillow's own limit is 178,956,970.
    maximum_pixels: int = 100_000_000
    shorter_side: int = 320  # pixels; a quarter more than the scorer's 256 (NIMA, section III)
    jpeg_quality: int = 92  # quality of the stored photo: re-encoding moves a score less than the raters' noise
    maximum_left_out: float = 0.1  # fraction of excluded photos; a larger one means that the input is wrong
    validation_share: float = 0.1  # fraction of photos in the validation split
    test_share: float = 0.15  # fraction of photos in the test split
    # Bits of the perceptual hash's 256. Measured: re-encoding at quality 30, halving the size and 10 % more or less
    # light change at most 22 bits. Trimming 3 % of a portrait's width and height changes at most 40 bits (99 %). The
    # nearest different photos differ by 64 bits among 2 million pairs of portraits, and by 50 bits among 18 million
    # pairs of aligned faces.
    duplicate_distance: int = 40
    beam_options: str = ""  # options of an Apache Beam runner; "": a process pool on this machine


@dataclass(frozen=True)
class Faces:
    """Settings of the face detector and the face embedder, whose files ingestion stores with the data set."""

    face_detector: str = ""  # URI of YuNet's ONNX file; "" disables face detection
    face_detector_sha256: str = ""  # expected SHA-256 of the file; "" accepts any file
    face_embedder: str = ""  # URI of a .keras, .tflite or .onnx file, or deepface:NAME; "" disables face embeddings
    face_embedder_sha256: str = ""  # expected SHA-256 of the file, or of the deepface network's weights; "" accepts any
    face_preprocessing: FacePreprocessing = "facenet"  # pixel normalisation of a crop, as in the embedder's training
    # Layers of a .keras file that replace its output; a feature map gives its means and standard deviations.
    face_layers: tuple[str, ...] = ()
    # Fraction of each crop's side that ArcFace's template takes. By cross-validation with FaceNet on 1,989 portraits:
    # LCC .779 with one crop that includes the hair, .787 with a second crop of the face alone.
    face_scales: tuple[float, ...] = (0.8, 1.1)
    # Precision of the weights of a Keras embedder. With 8 bits FaceNet is three times as fast as with 16, and
    # cross-validation on 1,989 portraits has the same LCC: .7888 and .7885, .7902 and .7900 by seed.
    face_precision: FacePrecision = "int8"
    face_mirror: bool = True  # average the embeddings of a face and of its mirror image


@dataclass(frozen=True)
class Pretraining:
    """Settings of pretraining, which makes an encoder from unlabelled photos."""

    start: Start = "autoencoder"  # method of pretraining, or the encoder's initial weights
    weights: str = ""  # URI of a .keras or .weights.h5 file with the encoder's initial weights
    weights_sha256: str = ""  # expected SHA-256 of the file; "" accepts any file
    backbone: str = "MobileNet"  # any name in keras.applications (NIMA, table I: the cheapest of equal accuracy)
    backbone_options: dict[str, Any] = field(default_factory=dict)  # e.g. {"alpha": 0.25}
    scaling: Scaling = "backbone"  # pixel normalisation; "backbone": as keras.applications defines it for the backbone
    crop: int = 224  # pixels: side of the network's square input (NIMA, section III)
    epochs: int = 20
    learning_rate: float = 1e-3  # Adam's default
    batch_size: int = 32
    noise: float = 0.1  # standard deviation of the denoising autoencoder's input noise, for pixels of range 1
    seed: int = 1

    @property
    def unsupervised(self) -> bool:
        """True if the pipeline trains the encoder on unlabelled photos."""
        return self.start in ("autoencoder", "denoising")


@dataclass(frozen=True)
class Training:
    """Settings of training, which makes a scorer from rated photos and an encoder."""

    # Solver of the head. "closed": ridge regression in closed form on the features of the frozen network. "gradient":
    # epochs of the head, then of the whole network. "auto": "closed" if the scorer has a face embedding as input. On
    # 1,989 portraits with FaceNet: SRCC .784 with "closed", .72 with "gradient".
    fitting: Fitting = "auto"
    pairs: int = 1024  # feature components whose products the closed form weights (rank of the quadratic layer)
    dropout: float = 0.75  # before the ten-way softmax (NIMA, section III)
    head_epochs: int = 10
    head_learning_rate: float = 1e-3
    epochs: int = 15
    # Learning rate of the whole network. Lowest loss of MobileNetV2 in 15 epochs on 167 validation portraits: .0177
    # with averaging and .0180 without; at 3e-5 .0187 and .0185.
    learning_rate: float = 1e-4
    batch_size: int = 32
    averaging: float = 2.0  # epochs: time constant of the EMA of weights; 0 keeps the weights of the last step
    correlation_term: float = 0.0  # weight of 1 minus the correlation of a batch's mean scores, added to squared EMD
    rank_term: float = 0.0  # weight of the logistic loss of a batch's pairs of photos, added to squared EMD
    rater_weighting: bool = True  # weight photos by the reliability of their means: fewer raters give a lower weight
    rater_smoothing: bool = False  # shrink a photo's votes toward those of all photos: more so with fewer raters
    scale: int = 256  # pixels: a photo is scaled to this square, from which a random crop is taken (NIMA)
    # Fraction of training photos that are slightly blurred or wrongly exposed. Without them slight blur raises scores
    # by .14.
    camera_faults: float = 0.5
    embedding_size: int = 512  # principal components of the face embedding; at most all of them. 0 disables the input
    face_view: bool = True  # if faces are known, the aligned face goes through the backbone too: twice the time
    face_view_scale: float = 0.55  # fraction of that view's side that ArcFace's template takes; the rest: hair and neck
    job: str = "job"  # column of the attributes with the job; without the column or a value, the job is unknown
    minimum_job: int = 20  # least number of rated training photos of a job; a rarer job counts as unknown
    norms: str = ""  # URI of the client's upload norms; "": the project's norms
    mixed_precision: bool = False  # faster on GPUs with tensor cores; useless on a CPU
    # "all": every GPU of the machine through tf.distribute.MirroredStrategy; "workers": this process is one of several
    # machines' workers (`fit.distributed`), outside of the pipeline.
    devices: Devices = "one"
    seed: int = 1


@dataclass(frozen=True)
class Validation:
    """Settings of validation, which compares a data set with the champion's and decides if training is worthwhile."""

    minimum_new_labels: int = 0  # rated photos since the champion; fewer skip the run. 0 never skips a run
    # Score points (Wasserstein distance). Ratings on a scale of 0-9 are 1 off. In MEBeauty any single gender or
    # ethnicity is at most .74 off the full data set, and 95 % of pairs of random draws of 100 photos are within .35.
    maximum_label_drift: float = 0.75
    # Standard deviations: a "medium" shift (Cohen, 1988, section 2.2). In MEBeauty any single gender or ethnicity is
    # within .25, and 95 % of pairs of random draws of 100 photos are within .37. Photos of another collection are 3 or
    # more off.
    maximum_photo_drift: float = 0.5


@dataclass(frozen=True)
class Evaluation:
    """Settings of evaluation, which judges a scorer by gates on the test split."""

    accuracy_threshold: float = 5.5  # middle of 1-10, which separates high and low quality as in NIMA and AVA
    bootstrap: int = 1000  # resamples; each 2.5 % tail then has 25 resamples
    confidence: float = 0.95
    minimum_test_photos: int = 100  # with fewer photos the interval of an SRCC of .7 is wider than .2
    minimum_srcc: float = 0.5  # one rater reaches about .6 against the other raters; a much lower SRCC is useless
    maximum_emd: float = 1.5  # score points between the predicted and the true votes
    minimum_spread: float = 0.4  # standard deviation of predictions divided by that of the truth
    # Slope of people's means on predictions: 1 is calibrated; below 1 the predictions are spread too widely.
    minimum_slope: float = 0.5
    # Fraction of predicted scores outside 4-7, divided by that of people's scores; 0 for a collapsed scorer.
    minimum_outside: float = 0.2
    # Comparison with the champion: the data must show that a challenger loses less than the margin. Simulated with 23
    # raters and an SRCC of .7 (tests/benchmarks/gate_power.py): to pass four times in five, an equally good challenger
    # needs 3,500 test photos if it correlates by .8 with the champion, 1,900 by .9, 1,000 by .95. Half the margin needs
    # four times as many photos. Of 30,000 rated photos 4,500 are test photos: enough only for a challenger that is
    # very similar to the champion.
    champion_mode: ChampionMode = "non-inferiority"  # "superiority" would reject an equally good one on newer data
    champion_margin: float = 0.02  # SRCC and LCC
    champion_margin_emd: float = 0.03  # score points: a scorer that loses .02 SRCC to noise loses .028 in EMD
    significance: float = 0.05  # probability of accepting a challenger that is worse by the margin
    # Slices: groups of photos that are scored too low.
    crossings: tuple[str, ...] = ()  # combined attributes, e.g. "gender*ethnicity"; single ones are always sliced
    minimum_slice: int = 30  # photos; smaller slices are reported and not judged
    minimum_slice_srcc: float = 0.3
    maximum_slice_gap: float = 0.25  # score points of mean error, adjusted for people's own ratings
    # Robustness to changed photos.
    behaviour_photos: int = 128  # photos of the test split, drawn by the seed
    # Score points that degraded photos may gain on average: as much as re-encoding at quality 95 moves scores.
    maximum_rise: float = 0.05
    behaviour_tolerance: float = 0.2  # score points that a mirror, one pixel's shift or a re-encoding may move a photo
    perturbation_photos: int = 8
    perturbation_budget: float = 2.0  # of 255, for each pixel and colour: invisible to people
    maximum_perturbation: float = 1.84  # score points, as the portrait paper reports (4.44 to 6.24 in 100 steps)
    # Serving.
    maximum_latency: float = 250.0  # milliseconds, 95th percentile, one photo at a time on this step's CPU
    maximum_size: float = 200.0  # megabytes of the exported model
    show_photos: bool = False  # True shows photos, which are people's faces, in the report
    seed: int = 1


@dataclass(frozen=True)
class Policy:
    """Policy that turns gate results into a decision."""

    # Gates that only warn: a drift of the photos may be intended, and no scorer of this kind withstands an adversarial
    # perturbation.
    warn_only: tuple[GateKey, ...] = ("photo_drift", "perturbation")
    force_publish: bool = False
    force_reason: str = ""


@dataclass(frozen=True)
class Push:
    """Settings of push, which publishes a version."""

    model_registry: str = ""  # URL of the Kubeflow Model Registry; "": the platform has no registry


@dataclass(frozen=True)
class AdviceSettings:
    """Settings of advice, which searches for edits of a photo that raise its score."""

    # Score points: the tolerance of the robustness gates for a change that nobody sees.
    minimum_gain: float = Evaluation.behaviour_tolerance
    # Standard errors: Student's t with 14 degrees of freedom exceeds 4 by chance once in 1,500 trials.
    noise_multiple: float = 4.0
    # Fraction of the gain that must be left half a slider step away. An edit with a proportional effect keeps at least
    # half of the smallest advised gain, and the scorer's noise takes some of that.
    plateau: float = 0.4
    maximum_difference: float = 30.0  # mean CIE 1976 ΔE*ab; restoring two missing stops moves L* by 24, to 50
    maximum_clipped: float = 0.05  # fraction of the photo that becomes white or black: 95 % of portraits have less
    refinements: int = 3  # refinement steps around the best of the values that are tried first
    scorings: int = 180  # most scorings of a photo: at 8 ms each, they leave a quarter of two seconds for the rest
    working_side: int = 640  # pixels: half of this width is still the scored 320
    smallest_crop: int = 256  # pixels: the scorer's input; a narrower crop would be enlarged
    preview_side: int = 640  # pixels of the longer side: fills a phone's screen, in about 60 KB
    preview_quality: int = 85
