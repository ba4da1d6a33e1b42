"""Training of the score head on a pretrained encoder: by ridge regression, or by epochs and fine-tuning (NIMA)."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from components.scorer import storage
from components.scorer.artifacts import bundle
from components.scorer.artifacts.bundle import TrainedScorer
from components.scorer.data import photos
from components.scorer.faces import embedder
from components.scorer.fit import ema
from components.scorer.fit.checkpoints import CheckpointStore, History, best_epoch, fingerprint_of, fit
from components.scorer.fit.distributed import join_worker_group
from components.scorer.model import auxiliary_heads, layers
from components.scorer.model.auxiliary_heads import HeadSpec
from components.scorer.model.inputs import PHOTO_ONLY, ModelInputs, PCABasis, set_pca_weights
from components.scorer.model.losses import VoteDistributionLoss
from components.scorer.model.network import build_head, build_scorer, copy_head_weights
from components.scorer.model.surgery import freeze_batch_norms, with_precision
from components.scorer.parameters import as_parameters, check_pretraining
from components.scorer.settings import Pretraining, Training
from components.training import features
from components.training.examples.face_inputs import find_model_inputs
from components.training.examples.label_noise import fit_label_noise
from components.training.features import FeatureExtractor, HeadFeatures
from components.training.heads.attributes import fit_attribute
from components.training.heads.job_tilt import JobTrainingData, fit_job_tilts
from components.training.heads.ridge import fit_ridge_head
from components.training.load_norms import read_norms
from components.training.pretraining_ablation import run_ablation
from components.training.report import write_report


def train(
    dataset: str | Path,
    encoder: str | Path,
    scorer: str | Path,
    report: str | Path,
    *,
    settings: Training,
    checkpoints: str,
    fingerprint: str,
    revision: str = "",
) -> dict[str, float]:
    """Train a scorer by ridge regression or by epochs; `uses_ridge_head` decides which.

    By epochs, the scorer learns from the split ``train`` and keeps the epoch with the lowest loss on ``validation``.
    The closed form chooses hyperparameters by leave-one-out and learns from both splits.

    Args:
        dataset: TFDS directory.
        encoder: Folder of the pretrained encoder.
        scorer: Folder to write the bundle to.
        report: HTML file to write the report to.
        settings: Training settings. With ``devices`` "workers" every worker calls this function with the same
            `checkpoints`; only the chief writes the bundle and the report.
        checkpoints: URI of the folder of this step's checkpoints.
        fingerprint: Fingerprint of the data set, written into the bundle.
        revision: Git revision of the code, written into the bundle.

    Returns:
        ``training_loss`` and ``validation_loss`` (squared EMD) of the best epoch, or of the ridge head with its
        leave-one-out loss, ``training_epochs``, ``training_photos`` and ``training_minutes``. After the pipeline's own
        pretraining also ``pretraining_gain`` and ``pretraining_gain_low``, see ``pretraining_ablation``.

    Raises:
        ValueError: The data set has no photo to train or to validate on, or the settings contradict each other.
    """
    workers = join_worker_group() if settings.devices == "workers" else None
    strategy = workers.strategy if workers else _distribution_strategy(settings)
    with strategy.scope():
        network, pretraining = bundle.load_encoder(encoder)
    check_trainable(settings, pretraining, photos.counts(dataset))
    norms = read_norms(settings)
    head_spec = auxiliary_heads.detect_heads(photos.attributes(dataset, "train"), settings, norms.attributes)
    keras.utils.set_random_seed(settings.seed)
    identity = fingerprint_of(as_parameters(pretraining), as_parameters(settings), fingerprint, head_spec.attributes)
    model_inputs, components = find_model_inputs(dataset, settings)
    if workers and uses_ridge_head(settings, model_inputs):
        raise ValueError('a head in closed form is fitted by one machine in minutes: set devices to "one"')
    extractor = FeatureExtractor(dataset, pretraining.crop, settings, head_spec, model_inputs, workers)
    with strategy.scope():
        network = with_precision(network, "mixed_float16" if settings.mixed_precision else "float32")
        if uses_ridge_head(settings, model_inputs):
            model, head_curves = _train_ridge_head(network, components, extractor, settings)
            curves: History = {}
        else:
            stores = [CheckpointStore(storage.join(checkpoints, phase), identity) for phase in ("head", "all")]
            model, head_curves, curves = _train_by_epochs(
                network, components, pretraining, extractor, settings, *stores
            )
    history = {**{f"head_{name}": values for name, values in head_curves.items()}, **curves}
    metrics = _metrics(history, photos.counts(dataset)["train"])
    if workers and not workers.chief:
        return metrics
    if settings.devices != "one":
        model = bundle.without_optimizer(model)  # its weights then belong to this process alone
    model = with_precision(model, "float32")
    head_spec, heads = _fit_auxiliary_heads(model, extractor)
    ablation = run_ablation(FeatureExtractor(dataset, pretraining.crop, settings, HeadSpec(), PHOTO_ONLY), encoder)
    trained = TrainedScorer(
        model, pretraining, settings, fingerprint, revision, history, head_spec, heads,
        norms=norms.content, faces=_face_files(dataset, model_inputs),
        notes=(ablation.warning,) if ablation and ablation.warning else (),
    )  # fmt: skip
    trained.save(scorer)
    is_ridge = uses_ridge_head(settings, model_inputs)
    write_report(
        report, settings, head_spec, trained.face_summary, head_curves, curves, is_ridge, ablation=str(ablation or "")
    )
    return metrics | (ablation.metrics if ablation else {})


def uses_ridge_head(settings: Training, model_inputs: ModelInputs) -> bool:
    """Return True if the head is fitted in closed form; the network then stays frozen."""
    return settings.fitting == "closed" or (settings.fitting == "auto" and model_inputs.embedding_size > 0)


def check_trainable(settings: Training, pretraining: Pretraining, sizes: dict[str, int]) -> None:
    """Raise ValueError if the settings and the data set cannot be trained, before anything is computed."""
    for split in ("train", "validation"):
        if not sizes.get(split):
            raise ValueError(f"training needs rated photos in the split {split!r}, the data set has none: {sizes}")
    check_pretraining(pretraining, settings.scale)
    if settings.devices == "workers" and settings.correlation_term + settings.rank_term:
        raise ValueError(
            "correlation_term and rank_term compare the photos of a batch, of which a worker sees a part: leave them"
            ' at 0 with devices "workers"'
        )
    if settings.devices != "one" and keras.backend.backend() != "tensorflow":
        raise ValueError(
            f'devices "{settings.devices}" needs Keras on TensorFlow, whose tf.distribute it is, got '
            f'{keras.backend.backend()}: set KERAS_BACKEND to tensorflow, or devices to "one"'
        )
    if settings.head_epochs + settings.epochs == 0:
        raise ValueError("head_epochs and epochs are both 0: nothing would be trained; set one of them to 1 or more")


def _train_ridge_head(
    network: keras.Model, components: PCABasis | None, extractor: FeatureExtractor, settings: Training
) -> tuple[keras.Model, History]:
    """Fit the ridge head on the photos of both splits and build the scorer; see ``ridge``."""
    encode = extractor.encode_fn(network)
    parts = [extractor.pooled_features(encode, split) for split in ("train", "validation")]
    n_originals = sum(len(part.votes) for part in parts)
    parts += [copies for split in ("train", "validation") if (copies := extractor.degraded_features(encode, split))]
    inputs, votes, raters = features.concatenate_batches(parts)
    label_noise = fit_label_noise(votes[:n_originals], raters[:n_originals], settings)
    votes, weights = label_noise.targets_and_weights(votes, raters)
    head, curves = fit_ridge_head(
        inputs, votes, extractor.model_inputs, components, settings, n_originals=n_originals, weights=weights
    )
    model = build_scorer(network, settings.dropout, extractor.model_inputs, head.get_layer(layers.QUADRATIC_LAYER).rank)
    copy_head_weights(head, model)
    return model, curves


def _train_by_epochs(
    network: keras.Model,
    components: PCABasis | None,
    pretraining: Pretraining,
    extractor: FeatureExtractor,
    settings: Training,
    head_checkpoints: CheckpointStore,
    checkpoints: CheckpointStore,
) -> tuple[keras.Model, History, History]:
    """Train the head, then the whole network, by gradient descent (NIMA)."""
    head, head_curves = _fit_head(network, components, extractor, settings, head_checkpoints)
    model = build_scorer(network, settings.dropout, extractor.model_inputs)
    set_pca_weights(model, components)
    if head is not None:
        copy_head_weights(head, model)
    model, curves = _fine_tune(model, pretraining, extractor, settings, checkpoints)
    return model, head_curves, curves


def compile_for_votes(model: keras.Model, learning_rate: float, settings: Training, n_photos: int) -> None:
    """Compile a head or a scorer for gradient descent.

    Args:
        model: Model that outputs votes.
        learning_rate: Learning rate.
        settings: Training settings; name the loss terms and the epochs of the weights' moving average.
        n_photos: Number of photos per epoch.
    """
    steps = settings.averaging * -(-n_photos // settings.batch_size)
    loss = VoteDistributionLoss(settings.correlation_term, settings.rank_term)
    model.compile(ema.adam(learning_rate, steps), loss=loss)


def _fit_head(
    network: keras.Model,
    components: PCABasis | None,
    extractor: FeatureExtractor,
    settings: Training,
    checkpoints: CheckpointStore,
) -> tuple[keras.Model | None, History]:
    """Train the head alone, on features computed once: minutes instead of hours for the same epochs."""
    if not settings.head_epochs:
        return None, {}
    encode = extractor.encode_fn(network)
    train_features, validation_features = (
        extractor.pooled_features(encode, split) for split in ("train", "validation")
    )
    votes, weights = extractor.label_noise.targets_and_weights(
        train_features.votes, train_features.raters.astype("float32")
    )
    train = tf.data.Dataset.from_tensor_slices((train_features.inputs, votes, weights))
    validation = tf.data.Dataset.from_tensor_slices((validation_features.inputs, validation_features.votes))
    head = build_head(network.output_shape[-1], settings.dropout, extractor.model_inputs)
    set_pca_weights(head, components)
    compile_for_votes(head, settings.head_learning_rate, settings, len(train_features.votes))

    def epoch(number: int) -> tf.data.Dataset:
        shuffled = train.shuffle(train.cardinality(), seed=settings.seed + number, reshuffle_each_iteration=False)
        return photos.make_batches(shuffled, settings.batch_size, shard=extractor.shard)

    return fit(
        head,
        settings.head_epochs,
        epoch,
        task="training the head",
        checkpoints=checkpoints,
        seed=settings.seed,
        validation=photos.make_batches(validation, settings.batch_size, shard=extractor.shard),
        workers=extractor.workers,
    )


def _fine_tune(
    model: keras.Model,
    pretraining: Pretraining,
    extractor: FeatureExtractor,
    settings: Training,
    checkpoints: CheckpointStore,
) -> tuple[keras.Model, History]:
    """Fine-tune the whole network, starting from the trained head."""
    if pretraining.start != "none":
        freeze_batch_norms(model)
    compile_for_votes(model, settings.learning_rate, settings, photos.counts(extractor.dataset)["train"])
    return fit(
        model,
        settings.epochs,
        extractor.train_epoch,
        task="training the network",
        checkpoints=checkpoints,
        seed=settings.seed,
        validation=extractor.eval_batches("validation", extractor.shard),
        workers=extractor.workers,
    )


def _fit_auxiliary_heads(scorer: keras.Model, extractor: FeatureExtractor) -> tuple[HeadSpec, keras.Model | None]:
    """Return the jobs and attributes that could be learnt, and their heads' model; None without heads."""
    requested = extractor.head_spec
    if not requested:
        return requested, None
    train, validation = (extractor.head_features(scorer, split) for split in ("train", "validation"))
    classifiers = {}
    for index, name in enumerate(requested.attributes):
        classifier = fit_attribute(*((split.features, split.attributes[:, index]) for split in (train, validation)))
        if classifier is None:
            print(f"training: {name} cannot be told from what the scorer sees, and is left out", flush=True)
        else:
            classifiers[name] = classifier
    head_spec = replace(requested, attributes={name: requested.attributes[name] for name in classifiers})
    if not head_spec:
        return head_spec, None
    jobs = _fit_job_tilts(scorer, train, validation, len(head_spec.jobs)) if head_spec.jobs else ()
    return head_spec, auxiliary_heads.build_heads(scorer, head_spec, jobs, _stack_classifiers(classifiers))


def _fit_job_tilts(
    scorer: keras.Model, train: HeadFeatures, validation: HeadFeatures, n_jobs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the slopes and offsets of the known jobs."""
    votes_layer = scorer.get_layer("votes")
    train_data, validation_data = (
        JobTrainingData(split.features, np.asarray(votes_layer(split.features)), split.votes, split.jobs)
        for split in (train, validation)
    )
    return fit_job_tilts(train_data, validation_data, n_jobs)


def _stack_classifiers(classifiers: dict[str, tuple[np.ndarray, float]]) -> tuple[np.ndarray, ...]:
    """Return the attribute heads' weights ``[c, k]`` and intercepts ``[k]``; empty without attribute heads."""
    if not classifiers:
        return ()
    weights, intercepts = zip(*classifiers.values(), strict=True)
    return np.stack(weights, axis=1), np.array(intercepts)


def _distribution_strategy(settings: Training) -> tf.distribute.Strategy:
    """Return the strategy of one device, or of every GPU of the machine."""
    return tf.distribute.MirroredStrategy() if settings.devices == "all" else tf.distribute.get_strategy()


def _face_files(dataset: str | Path, model_inputs: ModelInputs) -> dict[str, bytes]:
    """Return the face files of the data set; the detector alone, for the norms, if the scorer reads no embeddings."""
    files = bundle.load_face_files(dataset)
    return files if model_inputs.embedding_size else bundle.detector_files(files.get(embedder.DETECTOR, b""))


def _metrics(history: History, n_photos: int) -> dict[str, float]:
    """Return the pipeline's metrics; those of the head if the whole network was not trained."""
    prefix = "" if "loss" in history else "head_"
    best = best_epoch({"val_loss": history[f"{prefix}val_loss"]}) - 1
    seconds = sum(sum(history.get(name, [])) for name in ("seconds", "head_seconds"))
    return {
        "training_loss": history[f"{prefix}loss"][best],
        "validation_loss": history[f"{prefix}val_loss"][best],
        "training_epochs": float(len(history.get("loss", []))),
        "training_photos": float(n_photos),
        "training_minutes": seconds / 60,
    }
