"""Every default of the pipeline, once, with its origin.

The pipeline's signature, the command line and the documentation read these frozen dataclasses, so all of
them show the same number. Nothing here imports TensorFlow: compiling the pipeline must not need it.

Sources named below:

* NIMA: Talebi and Milanfar, "NIMA: Neural Image Assessment", 2018, https://arxiv.org/abs/1709.05424
* SEMD: Hou, Yu and Samaras, "Squared Earth Mover's Distance-based Loss for Training Deep Neural
  Networks", 2016, https://arxiv.org/abs/1611.05916
* AVA: Murray, Marchesotti and Perronnin, "AVA: A large-scale database for aesthetic visual analysis", 2012
"""

from dataclasses import dataclass, field
from typing import Any, Literal

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
