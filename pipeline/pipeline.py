"""The pipeline: every parameter with its default, grouped by phase; the steps; the two gates.

Ingestion is never cached, for it lists a bucket; it returns the data set's fingerprint, and pretraining and
training, which take it as a parameter, come from the cache while data and settings stay the same. Validation and
evaluation are not cached, for the champion changes behind their parameters; nor is push, for it changes the champion.
"""

from pathlib import Path
from typing import Literal

from kfp import dsl

from components.evaluation.component import evaluation
from components.ingestion.component import ingestion
from components.notification.component import notification
from components.pretraining.component import pretraining
from components.push.component import push
from components.scorer.parameters import among
from components.scorer.settings import (
    ChampionMode,
    Devices,
    Evaluation,
    FacePrecision,
    FacePreprocessing,
    Faces,
    Fitting,
    Ingestion,
    Policy,
    Pretraining,
    Push,
    RatingFormat,
    Scaling,
    Start,
    Training,
    Validation,
)
from components.training.component import training
from components.validation.component import validation
from images.digests import STEPS_CPU, STEPS_GPU

if __name__ == "pipeline":  # `kfp dsl compile --py` loads this file under the name of its package, which it then is
    __path__ = [str(Path(__file__).parent)]

from pipeline import literal_parameters, resources

NAME = "portrait-scorer"

_ingestion, _faces, _pretraining, _training = Ingestion(), Faces(), Pretraining(), Training()
_validation, _evaluation, _policy, _push = Validation(), Evaluation(), Policy(), Push()


@literal_parameters.pipeline(name=NAME, display_name="Portrait scorer", pipeline_config=resources.LIFETIME)
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
    consent: str = "",
    # Ingestion
    rating_format: RatingFormat = _ingestion.rating_format,
    rating_scale: str = _ingestion.rating_scale,
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
    # Faces
    face_detector: str = _faces.face_detector,
    face_detector_sha256: str = _faces.face_detector_sha256,
    face_embedder: str = _faces.face_embedder,
    face_embedder_sha256: str = _faces.face_embedder_sha256,
    face_preprocessing: FacePreprocessing = _faces.face_preprocessing,
    face_layers: list = list(_faces.face_layers),  # noqa: B006
    face_scales: list = list(_faces.face_scales),  # noqa: B006
    face_precision: FacePrecision = _faces.face_precision,
    face_mirror: bool = _faces.face_mirror,
    embedding_size: int = _training.embedding_size,
    face_view: bool = _training.face_view,
    face_view_scale: float = _training.face_view_scale,
    # The network, pretraining
    start: Start = _pretraining.start,
    weights: str = _pretraining.weights,
    weights_sha256: str = _pretraining.weights_sha256,
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
    fitting: Fitting = _training.fitting,
    pairs: int = _training.pairs,
    dropout: float = _training.dropout,
    head_epochs: int = _training.head_epochs,
    head_learning_rate: float = _training.head_learning_rate,
    epochs: int = _training.epochs,
    learning_rate: float = _training.learning_rate,
    batch_size: int = _training.batch_size,
    averaging: float = _training.averaging,
    correlation_term: float = _training.correlation_term,
    rank_term: float = _training.rank_term,
    rater_weighting: bool = _training.rater_weighting,
    rater_smoothing: bool = _training.rater_smoothing,
    camera_faults: float = _training.camera_faults,
    job: str = _training.job,
    minimum_job: int = _training.minimum_job,
    norms: str = _training.norms,
    mixed_precision: bool = _training.mixed_precision,
    devices: Devices = _training.devices,
    seed: int = _training.seed,
    # Validation: the gates before anything is trained
    minimum_new_labels: int = _validation.minimum_new_labels,
    maximum_label_drift: float = _validation.maximum_label_drift,
    maximum_photo_drift: float = _validation.maximum_photo_drift,
    # Evaluation: the gates before anything is published
    accuracy_threshold: float = _evaluation.accuracy_threshold,
    bootstrap: int = _evaluation.bootstrap,
    confidence: float = _evaluation.confidence,
    minimum_test_photos: int = _evaluation.minimum_test_photos,
    minimum_srcc: float = _evaluation.minimum_srcc,
    maximum_emd: float = _evaluation.maximum_emd,
    minimum_spread: float = _evaluation.minimum_spread,
    minimum_slope: float = _evaluation.minimum_slope,
    minimum_outside: float = _evaluation.minimum_outside,
    champion_mode: ChampionMode = _evaluation.champion_mode,
    champion_margin: float = _evaluation.champion_margin,
    champion_margin_emd: float = _evaluation.champion_margin_emd,
    significance: float = _evaluation.significance,
    crossings: list = list(_evaluation.crossings),  # noqa: B006
    minimum_slice: int = _evaluation.minimum_slice,
    minimum_slice_srcc: float = _evaluation.minimum_slice_srcc,
    maximum_slice_gap: float = _evaluation.maximum_slice_gap,
    behaviour_photos: int = _evaluation.behaviour_photos,
    maximum_rise: float = _evaluation.maximum_rise,
    behaviour_tolerance: float = _evaluation.behaviour_tolerance,
    perturbation_photos: int = _evaluation.perturbation_photos,
    perturbation_budget: float = _evaluation.perturbation_budget,
    maximum_perturbation: float = _evaluation.maximum_perturbation,
    maximum_latency: float = _evaluation.maximum_latency,
    maximum_size: float = _evaluation.maximum_size,
    show_photos: bool = _evaluation.show_photos,
    # What a gate's no means
    warn_only: list = list(_policy.warn_only),  # noqa: B006
    force_publish: bool = _policy.force_publish,
    force_reason: str = _policy.force_reason,
    # Publishing
    model_registry: str = _push.model_registry,
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
        ratings: File of ratings: a row a rating, a column a rater, vote counts, means, AVA.txt, or JSON with counts.
        unlabelled: Folder or address of photos without ratings, for pretraining.
        attributes: File with attributes of the photos, by photo; the report counts the splits by each.
        name: Name of the published model.
        resume: Id of an earlier run whose checkpoints pretraining and training go on from.
        webhook: Name of the Kubernetes Secret that says whom to tell of the end; without it the log alone is told.
        revision: Git revision of this code, for the scorer's record; submit and schedule fill it in.
        consent: How the people on the photos agreed to this use, or where that is documented; for the model card.
        rating_format: How the ratings are written; auto recognises it.
        rating_scale: Lowest and highest score that people could give, such as 1-5 or 0-100; auto recognises it.
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
        face_detector: Address of YuNet's ONNX file; without it faces are looked for on no photo.
        face_detector_sha256: SHA-256 that this file has to have; empty takes any.
        face_embedder: Address of a .keras, .tflite or .onnx file that reads faces, or deepface:VGG-Face.
        face_embedder_sha256: SHA-256 that this file has to have; empty takes any.
        face_preprocessing: How the embedder wants pixels.
        face_layers: Layers of a .keras embedder to read in place of its output, for example ["AvgPool"].
        face_scales: Of each crop of a face that is read, the share of its side that ArcFace's template takes.
        face_precision: Of a Keras embedder's weights; more bits where fewer would change what it says.
        face_mirror: Average what is read of a face and of its mirror image.
        embedding_size: Principal components of the face's embedding that the scorer reads, at most; 0 reads none.
        face_view: Where faces are known, show the network the aligned one as well, beside the whole photo.
        face_view_scale: Share of that view's side that the face takes.
        start: What the network starts from: an autoencoder, a denoising one, ImageNet or nothing.
        weights: Address of a .keras or .weights.h5 file that the encoder starts from.
        weights_sha256: SHA-256 that this file has to have; empty takes any.
        backbone: Network of keras.applications.
        backbone_options: Its options, for example {"alpha": 0.25}.
        scaling: How pixels are scaled for the backbone.
        scale: Pixels of the square that photos are scaled to before a crop is read.
        crop: Pixels of the square that the network reads.
        pretraining_epochs: Epochs of the autoencoder.
        pretraining_learning_rate: Its learning rate (Adam).
        pretraining_batch_size: Photos in a batch of it.
        noise: Standard deviation of the denoising autoencoder's noise, where pixels range from 0 to 1.
        fitting: Head in closed form on the network as it is, or head and network by epochs; auto: by what is read.
        pairs: Components of the features whose pairs the closed form weighs.
        dropout: Share of features dropped before the ten-way softmax.
        head_epochs: Epochs in which only the head is trained.
        head_learning_rate: Learning rate of the head (Adam).
        epochs: Epochs in which the whole network is trained, after the head.
        learning_rate: Learning rate of the whole network (Adam).
        batch_size: Photos in a batch.
        averaging: Epochs over which a running mean of the weights reaches, which is judged and kept; 0 for none.
        correlation_term: Adds so many times 1 less a batch's correlation to the loss of training by epochs.
        rank_term: Adds so many times the logistic loss of a batch's pairs to it.
        rater_weighting: Whether photos that few people rated count less in training.
        rater_smoothing: Whether their votes are drawn toward those of all photos.
        camera_faults: Share of training photos slightly blurred or wrongly exposed, so that neither raises a score.
        job: Column of the attributes that holds the job which the person offers to do; without it all are unknown.
        minimum_job: Training photos of a job that the scorer is to know; a rarer one counts as unknown.
        norms: Address of the JSON file of upload norms; empty takes those of this project.
        mixed_precision: Compute in 16 bits where that is safe; faster on GPUs with tensor cores.
        devices: One GPU, or all of the machine; workers, several machines, is for training outside of the pipeline.
        seed: Seed of every draw.
        minimum_new_labels: Gate: photos newly rated since the champion's data; with fewer the run is skipped.
        maximum_label_drift: Gate: shift of people's mean scores since the champion's data, in score points.
        maximum_photo_drift: Gate: shift of brightness, sharpness and the like since then, in standard deviations.
        accuracy_threshold: Score that parts high quality from low.
        bootstrap: Resamples for the intervals.
        confidence: Confidence of the intervals.
        minimum_test_photos: Gate: least number of test photos.
        minimum_srcc: Gate: least rank correlation with people.
        maximum_emd: Gate: largest earth mover's distance to people's votes, in score points.
        minimum_spread: Gate: least spread of the predictions as a share of the truth's.
        minimum_slope: Gate: least slope of people's means on the predictions.
        minimum_outside: Gate: least share of scores outside 4 to 7, as a share of people's.
        champion_mode: What a challenger has to show: that it is not worse than the champion, or that it is better.
        champion_margin: Gate: correlation (SRCC, LCC) that may be lost against the champion.
        champion_margin_emd: Gate: EMD that may be lost against the champion, in score points.
        significance: Chance of letting through a challenger that is worse by the margin.
        crossings: Attributes to slice by together, for example ["gender*ethnicity"]; each alone is always sliced by.
        minimum_slice: Photos of a slice that is judged; smaller ones are only shown.
        minimum_slice_srcc: Gate: least rank correlation of the worst slice.
        maximum_slice_gap: Gate: largest mean error of a slice, in score points, people's ratings allowed for.
        behaviour_photos: Test photos that are blurred, darkened and so on.
        maximum_rise: Gate: score points that photos made worse may gain on average.
        behaviour_tolerance: Gate: score points that a mirror image or a re-encoding may move a photo on average.
        perturbation_photos: Test photos that are perturbed by the scorer's own gradient.
        perturbation_budget: Largest change of a pixel in that, of 255.
        maximum_perturbation: Gate: score points that it may gain on average.
        maximum_latency: Gate: milliseconds for one photo, the 95th percentile on the step's CPU.
        maximum_size: Gate: megabytes of the exported model.
        show_photos: Show photos in the reports; they are people's faces.
        warn_only: Gates that warn and do not block, by their names in decision.json.
        force_publish: Publish although gates say no; needs force_reason.
        force_reason: Why, for the decision, the model card and the notification.
        model_registry: URL of the Kubeflow Model Registry that is told of each version; empty tells none.
        accelerator: Kubernetes resource name of the accelerator of pretraining and training; empty asks for none.
        accelerator_count: Accelerators for each of these steps.
        node_selector: Labels of the node pool of these steps, for example {"cloud.google.com/gke-spot": "true"}.
        tolerations: More Kubernetes tolerations than those of NVIDIA's taint and of GKE's spot nodes.
    """
    given = dict(locals())
    pool = (accelerator, accelerator_count, node_selector, tolerations)
    asked = {"accelerator": accelerator, "accelerator_count": accelerator_count}

    told = notification(workspace=workspace, run_name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER)
    resources.tell(resources.uncached(resources.give(told, resources.NOTIFICATION)), webhook)

    with dsl.ExitHandler(told, name="steps"):
        data = ingestion(
            photos=photos, ratings=ratings, unlabelled=unlabelled, attributes=attributes, workspace=workspace,
            models=models, weights=weights, norms=norms, show_photos=show_photos,
            **among(given, Faces), **among(given, Ingestion), **asked, node_selector=node_selector,
        )  # fmt: skip
        resources.uncached(resources.give(data, resources.INGESTION))

        checked = validation(
            dataset=data.outputs["dataset"], workspace=workspace, models=models, name=name,
            duplicate_distance=duplicate_distance, **among(given, Validation), **among(given, Policy),
        )  # fmt: skip
        resources.uncached(resources.give(checked, resources.VALIDATION))

        with dsl.If(checked.outputs["Output"] == True, name="worth-training"):  # noqa: E712 - this builds the condition
            encoder = pretraining(
                dataset=data.outputs["dataset"], fingerprint=data.outputs["Output"], workspace=workspace, resume=resume,
                scale=scale, show_photos=show_photos, **asked, **among(given, Pretraining, prefix="pretraining_"),
            )  # fmt: skip
            resources.accelerate(resources.give(encoder, resources.PRETRAINING), *pool)

            scorer = training(
                dataset=data.outputs["dataset"], fingerprint=data.outputs["Output"],
                encoder=encoder.outputs["encoder"], encoder_run=encoder.outputs["Output"],
                workspace=workspace, resume=resume, revision=revision, **asked, **among(given, Training),
            )  # fmt: skip
            resources.accelerate(resources.give(scorer, resources.TRAINING), *pool)

            judged = evaluation(
                dataset=data.outputs["dataset"], checks=checked.outputs["checks"], scorer=scorer.outputs["scorer"],
                workspace=workspace, models=models, name=name, revision=revision,
                **among(given, Evaluation), **among(given, Policy),
            )  # fmt: skip
            resources.uncached(resources.give(judged, resources.EVALUATION))

            with dsl.If(judged.outputs["Output"] == True, name="passed"):  # noqa: E712
                published = push(
                    dataset=data.outputs["dataset"], checks=checked.outputs["checks"],
                    scorer=scorer.outputs["scorer"], results=judged.outputs["results"],
                    workspace=workspace, models=models, name=name, consent=consent, **among(given, Push),
                    # Compiled in: within the images, which are older than their digests, nobody knows them.
                    images={"steps (CPU)": STEPS_CPU, "steps (GPU)": STEPS_GPU},
                )  # fmt: skip
                resources.uncached(resources.give(published, resources.PUSH))
