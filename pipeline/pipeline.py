"""The pipeline: every parameter with its default, grouped by phase; the steps; the gate.

Ingestion is never cached, for it lists a bucket; it returns the data set's fingerprint, and pretraining and
training, which take it as a parameter, come from the cache while data and settings stay the same. Evaluation is
not cached, for the champion changes behind its parameters; nor is push, for it changes the champion.
"""

from typing import Literal

from kfp import dsl

from components.evaluation.component import evaluation
from components.ingestion.component import ingestion
from components.notification.component import notification
from components.pretraining.component import pretraining
from components.push.component import push
from components.scorer.settings import (
    Devices,
    Evaluation,
    Ingestion,
    Pretraining,
    RatingFormat,
    Scaling,
    Start,
    Training,
    among,
)
from components.training.component import training
from pipeline import choices, resources

NAME = "portrait-scorer"

_ingestion, _pretraining, _training, _evaluation = Ingestion(), Pretraining(), Training(), Evaluation()


@choices.pipeline(name=NAME, display_name="Portrait scorer", pipeline_config=resources.LIFETIME)
def portrait_scorer(
    # Where things are
    photos: str,
    models: str,
    workspace: str,
    ratings: str = "",
    unlabelled: str = "",
    attributes: str = "",
    name: str = "portraits",
    resume: str = "",
    webhook: str = "portrait-scorer-webhook",
    revision: str = "",
    # Ingestion
    rating_format: RatingFormat = _ingestion.rating_format,
    ava_tags: list = list(_ingestion.ava_tags),  # noqa: B006 - read by the compiler, never changed
    minimum_raters: int = _ingestion.minimum_raters,
    rater_std: float = _ingestion.rater_std,
    minimum_side: int = _ingestion.minimum_side,
    maximum_pixels: int = _ingestion.maximum_pixels,
    shorter_side: int = _ingestion.shorter_side,
    jpeg_quality: int = _ingestion.jpeg_quality,
    maximum_left_out: float = _ingestion.maximum_left_out,
    validation_share: float = _ingestion.validation_share,
    test_share: float = _ingestion.test_share,
    duplicate_distance: int = _ingestion.duplicate_distance,
    beam_options: str = _ingestion.beam_options,
    # The network, pretraining
    start: Start = _pretraining.start,
    weights: str = _pretraining.weights,
    backbone: str = _pretraining.backbone,
    backbone_options: dict = _pretraining.backbone_options,
    scaling: Scaling = _pretraining.scaling,
    scale: int = _training.scale,
    crop: int = _pretraining.crop,
    pretraining_epochs: int = _pretraining.epochs,
    pretraining_learning_rate: float = _pretraining.learning_rate,
    pretraining_batch_size: int = _pretraining.batch_size,
    noise: float = _pretraining.noise,
    # Training
    dropout: float = _training.dropout,
    head_epochs: int = _training.head_epochs,
    head_learning_rate: float = _training.head_learning_rate,
    epochs: int = _training.epochs,
    learning_rate: float = _training.learning_rate,
    batch_size: int = _training.batch_size,
    mixed_precision: bool = _training.mixed_precision,
    devices: Devices = _training.devices,
    seed: int = _training.seed,
    # Evaluation: the gates
    accuracy_threshold: float = _evaluation.accuracy_threshold,
    minimum_srcc: float = _evaluation.minimum_srcc,
    maximum_emd: float = _evaluation.maximum_emd,
    minimum_spread: float = _evaluation.minimum_spread,
    champion_margin: float = _evaluation.champion_margin,
    bootstrap: int = _evaluation.bootstrap,
    confidence: float = _evaluation.confidence,
    show_photos: bool = _evaluation.show_photos,
    # The cluster
    accelerator: str = "nvidia.com/gpu",
    accelerator_count: Literal["1", "2", "4", "8", "16"] = "1",
    node_selector: dict = {},  # noqa: B006
    tolerations: list = [],  # noqa: B006
):
    """Keep a scorer of portrait photos trained, judged and published.

    Args:
        photos: Folder, gs:// or s3:// address of the rated photos, or tfds:NAME; sample: draws some.
        models: Folder, gs:// or s3:// address under which models are published.
        workspace: Folder, gs:// or s3:// address for checkpoints, the register of splits and the runs' records.
        ratings: File of ratings: one row a rating, ten vote counts, means, AVA.txt, or JSON with ten counts.
        unlabelled: Folder or address of photos without ratings, for pretraining.
        attributes: File with attributes of the photos, by photo; the report counts the splits by each.
        name: Name of the published model.
        resume: Id of an earlier run whose checkpoints pretraining and training go on from.
        webhook: Name of the Kubernetes Secret whose key "url" holds the webhook to tell; nobody is told without it.
        revision: Git revision of this code, for the scorer's record; submit and schedule fill it in.
        rating_format: How the ratings are written; auto recognises it.
        ava_tags: Semantic tags of AVA.txt to keep: 17 is Portraiture, 47 Self Portrait; empty keeps all.
        minimum_raters: Photos with fewer raters are left out.
        rater_std: Standard deviation of the raters' scores on a photo, where the ratings are means without it.
        minimum_side: Pixels of the shorter side; smaller photos are left out.
        maximum_pixels: Photos of more pixels are left out unopened, as decompression bombs.
        shorter_side: Pixels that the shorter side is shrunk to in the data set.
        jpeg_quality: JPEG quality of the data set's photos, 1 to 100.
        maximum_left_out: Share of photos; when more are left out, the run stops.
        validation_share: Share of rated photos in the validation split.
        test_share: Share of rated photos in the test split.
        duplicate_distance: Bits of 256 in which the hashes of near duplicates differ at most.
        beam_options: Options of an Apache Beam runner for large input; empty works on the step's own cores.
        start: What the network starts from: an autoencoder, a denoising one, ImageNet or nothing.
        weights: Address of a .keras or .weights.h5 file that the encoder starts from.
        backbone: Network of keras.applications.
        backbone_options: Its options, for example {"alpha": 0.25}.
        scaling: How pixels are scaled for the backbone.
        scale: Pixels of the square that photos are scaled to before a crop is read.
        crop: Pixels of the square that the network reads.
        pretraining_epochs: Epochs of the autoencoder.
        pretraining_learning_rate: Its learning rate (Adam).
        pretraining_batch_size: Photos in a batch of it.
        noise: Standard deviation of the denoising autoencoder's noise, where pixels range from 0 to 1.
        dropout: Share of features dropped before the ten-way softmax.
        head_epochs: Epochs in which only the head is trained.
        head_learning_rate: Learning rate of the head (Adam).
        epochs: Epochs in which the whole network is trained, after the head.
        learning_rate: Learning rate of the whole network (Adam).
        batch_size: Photos in a batch.
        mixed_precision: Compute in 16 bits where that is safe; faster on GPUs with tensor cores.
        devices: One GPU, or all of the machine.
        seed: Seed of every draw.
        accuracy_threshold: Score that parts high quality from low.
        minimum_srcc: Gate: least rank correlation with people.
        maximum_emd: Gate: largest earth mover's distance to people's votes, in score points.
        minimum_spread: Gate: least spread of the predictions as a share of the truth's.
        champion_margin: Gate: rank correlation that may be lost against the champion.
        bootstrap: Resamples for the intervals.
        confidence: Confidence of the intervals.
        show_photos: Show photos in the reports; they are people's faces.
        accelerator: Kubernetes resource name of the accelerator of pretraining and training; empty asks for none.
        accelerator_count: Accelerators for each of these steps.
        node_selector: Labels of the node pool of these steps; a toleration alone does not attract a pod to it.
        tolerations: Their Kubernetes tolerations, for example [{"key": "nvidia.com/gpu", "operator": "Exists"}].
    """
    given = dict(locals())
    pool = (accelerator, accelerator_count, node_selector, tolerations)

    told = notification(workspace=workspace, run_name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER)
    resources.tell(resources.uncached(resources.give(told, resources.NOTIFICATION)), webhook)

    with dsl.ExitHandler(told, name="steps"):
        data = ingestion(
            photos=photos, ratings=ratings, unlabelled=unlabelled, attributes=attributes, workspace=workspace,
            **among(given, Ingestion),
        )  # fmt: skip
        resources.uncached(resources.give(data, resources.INGESTION))

        encoder = pretraining(
            dataset=data.outputs["dataset"], fingerprint=data.outputs["Output"], workspace=workspace, resume=resume,
            scale=scale, show_photos=show_photos, **among(given, Pretraining, prefix="pretraining_"),
        )  # fmt: skip
        resources.accelerate(resources.give(encoder, resources.PRETRAINING), *pool)

        scorer = training(
            dataset=data.outputs["dataset"], fingerprint=data.outputs["Output"],
            encoder=encoder.outputs["encoder"], encoder_run=encoder.outputs["Output"],
            workspace=workspace, resume=resume, revision=revision, **among(given, Training),
        )  # fmt: skip
        resources.accelerate(resources.give(scorer, resources.TRAINING), *pool)

        judged = evaluation(
            dataset=data.outputs["dataset"], scorer=scorer.outputs["scorer"],
            workspace=workspace, models=models, name=name, revision=revision, **among(given, Evaluation),
        )  # fmt: skip
        resources.uncached(resources.give(judged, resources.EVALUATION))

        with dsl.If(judged.outputs["Output"] == True, name="passed"):  # noqa: E712 - this builds the condition
            published = push(
                dataset=data.outputs["dataset"], scorer=scorer.outputs["scorer"],
                workspace=workspace, models=models, name=name,
            )  # fmt: skip
            resources.uncached(resources.give(published, resources.PUSH))
