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
from components.scorer.parameters import select_parameters
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


@literal_parameters.pipeline(name=NAME, display_name="Portrait scorer", pipeline_config=resources.PIPELINE_CONFIG)
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
        webhook: Name of the Kubernetes Secret with the notification's recipients; empty only logs it.
        revision: Git revision of this code, for the scorer's record; submit and schedule fill it in.
        consent: Text or link that documents how the people on the photos agreed to this use; for the model card.
        rating_format: Form of the ratings file; auto recognises the form.
        rating_scale: Lowest and highest score that people could give, such as 1-5 or 0-100; auto recognises it.
        ava_tags: Semantic tags of AVA.txt to keep: 17 is Portraiture, 47 Self Portrait; empty keeps all.
        minimum_raters: Least number of raters; photos with fewer are left out.
        rater_std: Standard deviation of the raters' scores on a photo, for ratings that are means without deviations.
        minimum_side: Pixels of the shorter side; smaller photos are left out.
        maximum_pixels: Largest number of pixels; larger photos are left out unopened, as decompression bombs.
        shorter_side: Shorter side of the photos in the data set, pixels; larger photos are shrunk to it.
        jpeg_quality: JPEG quality of the data set's photos, 1 to 100.
        maximum_left_out: Largest share of photos that may be left out; above it the run stops.
        validation_share: Share of rated photos in the validation split.
        test_share: Share of rated photos in the test split.
        duplicate_distance: Largest Hamming distance of near duplicates, in bits of the 256-bit perceptual hash.
        beam_options: Options of an Apache Beam runner for large input; empty works on the step's own cores.
        face_detector: Address of YuNet's ONNX file; empty skips face detection.
        face_detector_sha256: SHA-256 that the detector's file must have; empty accepts any.
        face_embedder: Address of a .keras, .tflite or .onnx embedder, or deepface:VGG-Face; empty skips embeddings.
        face_embedder_sha256: SHA-256 that the embedder's file must have; empty accepts any.
        face_preprocessing: Pixel scaling that the embedder was trained with.
        face_layers: Layers of a .keras embedder that are read in place of its output, for example ["AvgPool"].
        face_scales: Scales of the face crops: the share of the crop's side that ArcFace's template takes.
        face_precision: Precision of a Keras embedder's weights; a higher one where a lower one changes embeddings.
        face_mirror: Average the embeddings of a face and of its mirror image.
        embedding_size: Largest number of PCA components of the face embedding that the scorer reads; 0 reads none.
        face_view: Give the network the aligned face as a second view beside the photo, where faces are known.
        face_view_scale: Share of the second view's side that the face takes.
        start: Initial weights of the network: an autoencoder, a denoising autoencoder, ImageNet or random (none).
        weights: Address of a .keras or .weights.h5 file that the encoder starts from.
        weights_sha256: SHA-256 that the weights' file must have; empty accepts any.
        backbone: Network of keras.applications.
        backbone_options: Keyword arguments of the backbone, for example {"alpha": 0.25}.
        scaling: Pixel scaling before the backbone.
        scale: Side of the square that photos are scaled to before cropping, pixels.
        crop: Side of the square crop that the network reads, pixels.
        pretraining_epochs: Epochs of the autoencoder.
        pretraining_learning_rate: Learning rate of the autoencoder (Adam).
        pretraining_batch_size: Photos in a batch of the autoencoder.
        noise: Standard deviation of the denoising autoencoder's noise, for pixels from 0 to 1.
        fitting: Solver: closed fits a ridge head on fixed features, gradient trains head and network; auto chooses.
        pairs: Rank of the quadratic features that the ridge head weighs.
        dropout: Share of the features that is dropped before the ten-way softmax.
        head_epochs: Epochs in which only the head is trained.
        head_learning_rate: Learning rate of the head (Adam).
        epochs: Epochs in which the whole network is trained, after the head.
        learning_rate: Learning rate of the whole network (Adam).
        batch_size: Photos in a batch.
        averaging: Epochs over which the weights are averaged (EMA); the averaged weights are kept. 0 averages none.
        correlation_term: Weight of 1 minus the batch's correlation in the loss of training by epochs.
        rank_term: Weight of the pairwise logistic rank loss in the loss of training by epochs.
        rater_weighting: Weigh photos by the reliability of their mean score, which falls with fewer raters.
        rater_smoothing: Draw the votes of photos with few raters toward the votes of all photos.
        camera_faults: Share of training photos made slightly blurred or badly exposed, so that faults raise no score.
        job: Column of the attributes that holds the job that the person offers; empty makes every job unknown.
        minimum_job: Least number of training photos of a job that the scorer learns; rarer jobs count as unknown.
        norms: Address of the JSON file of upload norms; empty takes the built-in norms.
        mixed_precision: Compute in 16 bits where that is safe; faster on GPUs with tensor cores.
        devices: One GPU or all GPUs of the machine; workers (several machines) is for training outside of the pipeline.
        seed: Seed of every random draw.
        minimum_new_labels: Gate: least number of photos rated since the champion's data; with fewer the run is skipped.
        maximum_label_drift: Gate: largest shift of people's mean score since the champion's data, in score points.
        maximum_photo_drift: Gate: largest shift of brightness, sharpness and others since then, in standard deviations.
        accuracy_threshold: Score at which high quality begins.
        bootstrap: Number of bootstrap resamples for the intervals.
        confidence: Confidence level of the intervals.
        minimum_test_photos: Gate: least number of test photos.
        minimum_srcc: Gate: least rank correlation (SRCC) with people.
        maximum_emd: Gate: largest earth mover's distance to people's votes, in score points.
        minimum_spread: Gate: least standard deviation of the predictions as a share of that of people's means.
        minimum_slope: Gate: least slope of people's means on the predictions.
        minimum_outside: Gate: least share of scores outside 4 to 7, as a share of people's.
        champion_mode: Proof that a challenger needs: non-inferiority to the champion or superiority over it.
        champion_margin: Gate: largest loss of correlation (SRCC, LCC) against the champion.
        champion_margin_emd: Gate: largest loss of EMD against the champion, in score points.
        significance: Probability of accepting a challenger that is worse by the margin.
        crossings: Attributes crossed for slices, for example ["gender*ethnicity"]; single ones are always sliced.
        minimum_slice: Least number of photos of a slice that is judged; smaller slices are shown only.
        minimum_slice_srcc: Gate: least rank correlation of the worst slice.
        maximum_slice_gap: Gate: largest mean error of a slice, in score points, after adjusting for people's ratings.
        behaviour_photos: Number of test photos that are blurred, darkened and so on.
        maximum_rise: Gate: largest mean rise of the score of degraded photos, in score points.
        behaviour_tolerance: Gate: largest mean change of the score by mirroring or re-encoding, in score points.
        perturbation_photos: Number of test photos that are attacked by PGD with the scorer's gradient.
        perturbation_budget: Largest change of a pixel in the attack, of 255.
        maximum_perturbation: Gate: largest mean rise of the score by the attack, in score points.
        maximum_latency: Gate: largest 95th percentile of the time for one photo on the step's CPU, milliseconds.
        maximum_size: Gate: largest size of the exported model, megabytes.
        show_photos: Show photos in the reports; they are people's faces.
        warn_only: Gates that warn and do not block, by their keys in decision.json.
        force_publish: Publish although gates failed; needs force_reason.
        force_reason: Reason of force_publish, for the decision, the model card and the notification.
        model_registry: URL of the Kubeflow Model Registry in which each version is registered; empty registers none.
        accelerator: Kubernetes resource name of the accelerator of pretraining and training; empty asks for none.
        accelerator_count: Accelerators for each of these steps.
        node_selector: Labels of the node pool of these steps, for example {"cloud.google.com/gke-spot": "true"}.
        tolerations: Kubernetes tolerations in addition to those of NVIDIA's taint and of GKE's spot nodes.
    """
    parameters = dict(locals())
    pool = (accelerator, accelerator_count, node_selector, tolerations)
    accelerators = {"accelerator": accelerator, "accelerator_count": accelerator_count}

    exit_task = notification(workspace=workspace, run_name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER)
    resources.add_notification_secret(
        resources.disable_caching(resources.set_resources(exit_task, resources.NOTIFICATION)), webhook
    )

    with dsl.ExitHandler(exit_task, name="steps"):
        data = ingestion(
            photos=photos, ratings=ratings, unlabelled=unlabelled, attributes=attributes, workspace=workspace,
            models=models, weights=weights, norms=norms, show_photos=show_photos,
            **select_parameters(parameters, Faces), **select_parameters(parameters, Ingestion), **accelerators,
            node_selector=node_selector,
        )  # fmt: skip
        resources.disable_caching(resources.set_resources(data, resources.INGESTION))

        checked = validation(
            dataset=data.outputs["dataset"], workspace=workspace, models=models, name=name,
            duplicate_distance=duplicate_distance, **select_parameters(parameters, Validation),
            **select_parameters(parameters, Policy),
        )  # fmt: skip
        resources.disable_caching(resources.set_resources(checked, resources.VALIDATION))

        with dsl.If(checked.outputs["Output"] == True, name="worth-training"):  # noqa: E712 - this builds the condition
            encoder = pretraining(
                dataset=data.outputs["dataset"], fingerprint=data.outputs["Output"], workspace=workspace, resume=resume,
                scale=scale, show_photos=show_photos, **accelerators,
                **select_parameters(parameters, Pretraining, prefix="pretraining_"),
            )  # fmt: skip
            resources.add_accelerators(resources.set_resources(encoder, resources.PRETRAINING), *pool)

            scorer = training(
                dataset=data.outputs["dataset"], fingerprint=data.outputs["Output"],
                encoder=encoder.outputs["encoder"], encoder_run=encoder.outputs["Output"],
                workspace=workspace, resume=resume, revision=revision, **accelerators,
                **select_parameters(parameters, Training),
            )  # fmt: skip
            resources.add_accelerators(resources.set_resources(scorer, resources.TRAINING), *pool)

            judged = evaluation(
                dataset=data.outputs["dataset"], checks=checked.outputs["checks"], scorer=scorer.outputs["scorer"],
                workspace=workspace, models=models, name=name, revision=revision,
                **select_parameters(parameters, Evaluation), **select_parameters(parameters, Policy),
            )  # fmt: skip
            resources.disable_caching(resources.set_resources(judged, resources.EVALUATION))

            with dsl.If(judged.outputs["Output"] == True, name="passed"):  # noqa: E712
                published = push(
                    dataset=data.outputs["dataset"], checks=checked.outputs["checks"],
                    scorer=scorer.outputs["scorer"], results=judged.outputs["results"],
                    workspace=workspace, models=models, name=name, consent=consent,
                    **select_parameters(parameters, Push),
                    # Compiled in: within the images, which are older than their digests, nobody knows them.
                    images={"steps (CPU)": STEPS_CPU, "steps (GPU)": STEPS_GPU},
                )  # fmt: skip
                resources.disable_caching(resources.set_resources(published, resources.PUSH))
