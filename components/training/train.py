"""Training of the score head on a pretrained encoder: by ridge regression, or by epochs and fine-tuning (NIMA)."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from components.scorer import storage
from components.scorer.artifacts import bundle
from components.scorer.artifacts.bundle import Bundle
from components.scorer.data import photos
from components.scorer.faces import embedder
from components.scorer.fit import ema
from components.scorer.fit.checkpoints import Checkpoints, Curves, best_epoch, fingerprint_of, fit
from components.scorer.fit.distributed import join
from components.scorer.model import auxiliary_heads, layers
from components.scorer.model.auxiliary_heads import Heads
from components.scorer.model.inputs import WHOLE, Components, Sight, settle
from components.scorer.model.losses import VotesLoss
from components.scorer.model.network import build_head, build_scorer, hand_over
from components.scorer.model.surgery import freeze_batch_norms, with_precision
from components.scorer.parameters import as_parameters, check_together
from components.scorer.settings import Pretraining, Training
from components.training import features
from components.training.examples.face_inputs import find_sight
from components.training.examples.label_noise import allowance
from components.training.features import Reader, Seen
from components.training.heads.attributes import fit_attribute
from components.training.heads.job_tilt import Rated, fit_jobs
from components.training.heads.ridge import fit_closed
from components.training.load_norms import read_rules
from components.training.pretraining_ablation import weigh
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
    """Train a scorer: fit its head in closed form, or train head and network by epochs; `closed` decides which.

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
    workers = join() if settings.devices == "workers" else None
    strategy = workers.strategy if workers else _strategy(settings)
    with strategy.scope():
        network, pretraining = bundle.load_encoder(encoder)
    check(settings, pretraining, photos.counts(dataset))
    norms = read_rules(settings)
    head_spec = auxiliary_heads.find(photos.attributes(dataset, "train"), settings, norms.attributes)
    keras.utils.set_random_seed(settings.seed)
    identity = fingerprint_of(as_parameters(pretraining), as_parameters(settings), fingerprint, head_spec.attributes)
    model_inputs, components = find_sight(dataset, settings)
    if workers and closed(settings, model_inputs):
        raise ValueError('a head in closed form is fitted by one machine in minutes: set devices to "one"')
    extractor = Reader(dataset, pretraining.crop, settings, head_spec, model_inputs, workers)
    with strategy.scope():
        network = with_precision(network, "mixed_float16" if settings.mixed_precision else "float32")
        if closed(settings, model_inputs):
            (model, head_curves), curves = _closed(network, components, extractor, settings), {}
        else:
            stores = [Checkpoints(storage.join(checkpoints, phase), identity) for phase in ("head", "all")]
            model, head_curves, curves = _by_epochs(network, components, pretraining, extractor, settings, *stores)
    history = {**{f"head_{name}": values for name, values in head_curves.items()}, **curves}
    if workers and not workers.chief:
        return _metrics(history, photos.counts(dataset)["train"])
    if settings.devices != "one":
        model = bundle.untrained(model)  # its weights then belong to this process alone
    model = with_precision(model, "float32")
    head_spec, heads_model = _heads(model, extractor)
    face_files = bundle.read_faces(dataset)
    if not model_inputs.embedding:  # the norms need the detector, nothing needs the embedder
        face_files = bundle.detector_alone(face_files.get(embedder.DETECTOR, b""))
    ablation = weigh(Reader(dataset, pretraining.crop, settings, Heads(), WHOLE), encoder)
    warnings = (ablation.warning,) if ablation and ablation.warning else ()
    trained = Bundle(
        model,
        pretraining,
        settings,
        fingerprint,
        revision,
        history,
        head_spec,
        heads_model,
        norms.norms,
        face_files,
        warnings,
    )
    trained.save(scorer)
    write_report(
        report,
        settings,
        head_spec,
        trained.reads,
        head_curves,
        curves,
        closed(settings, model_inputs),
        str(ablation or ""),
    )
    return _metrics(history, photos.counts(dataset)["train"]) | (ablation.figures if ablation else {})


def closed(settings: Training, sight: Sight) -> bool:
    """Return True if the head is fitted in closed form; the network then stays frozen."""
    return settings.fitting == "closed" or (settings.fitting == "auto" and sight.embedding > 0)


def check(settings: Training, pretraining: Pretraining, sizes: dict[str, int]) -> None:
    """Raise ValueError if the settings and the data set cannot be trained, before anything is computed."""
    for split in ("train", "validation"):
        if not sizes.get(split):
            raise ValueError(f"training needs rated photos in the split {split!r}, the data set has none: {sizes}")
    check_together(pretraining, settings.scale)
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


def _closed(
    network: keras.Model, components: Components | None, extractor: Reader, settings: Training
) -> tuple[keras.Model, Curves]:
    """Fit the ridge head on the photos of both splits and build the scorer; see ``ridge``."""
    encode = extractor.encoding(network)
    parts = [extractor.pooled(encode, split) for split in ("train", "validation")]
    n_originals = sum(len(part.votes) for part in parts)
    parts += [copies for split in ("train", "validation") if (copies := extractor.spoiled(encode, split))]
    inputs, votes, raters = features.concatenated(parts)
    label_noise = allowance(votes[:n_originals], raters[:n_originals], settings)
    votes, weights = label_noise.learnt(votes, raters)
    head, curves = fit_closed(
        inputs, votes, extractor.sight, components, settings, as_taken=n_originals, weights=weights
    )
    model = build_scorer(network, settings.dropout, extractor.sight, head.get_layer(layers.NAME).kept)
    hand_over(head, model)
    return model, curves


def _by_epochs(
    network: keras.Model,
    components: Components | None,
    pretraining: Pretraining,
    extractor: Reader,
    settings: Training,
    head_checkpoints: Checkpoints,
    checkpoints: Checkpoints,
) -> tuple[keras.Model, Curves, Curves]:
    """Train the head, then the whole network, by gradient descent (NIMA)."""
    head, head_curves = _fit_head(network, components, extractor, settings, head_checkpoints)
    model = build_scorer(network, settings.dropout, extractor.sight)
    settle(model, components)
    if head is not None:
        hand_over(head, model)
    model, curves = _fit_all(model, pretraining, extractor, settings, checkpoints)
    return model, head_curves, curves


def prepare(model: keras.Model, rate: float, settings: Training, size: int) -> None:
    """Compile a head or a scorer for gradient descent.

    Args:
        model: Model that outputs votes.
        rate: Learning rate.
        settings: Training settings; name the loss terms and the epochs of the weights' moving average.
        size: Number of photos per epoch.
    """
    steps = settings.averaging * -(-size // settings.batch_size)
    loss = VotesLoss(settings.correlation_term, settings.rank_term)
    model.compile(ema.adam(rate, steps), loss=loss)


def _fit_head(
    network: keras.Model, components: Components | None, extractor: Reader, settings: Training, checkpoints: Checkpoints
) -> tuple[keras.Model | None, Curves]:
    """Train the head alone, on features computed once: minutes instead of hours for the same epochs."""
    if not settings.head_epochs:
        return None, {}
    encode = extractor.encoding(network)
    train_features, validation_features = (extractor.pooled(encode, split) for split in ("train", "validation"))
    votes, weights = extractor.allowed.learnt(train_features.votes, train_features.raters.astype("float32"))
    train = tf.data.Dataset.from_tensor_slices((train_features.given, votes, weights))
    validation = tf.data.Dataset.from_tensor_slices((validation_features.given, validation_features.votes))
    head = build_head(network.output_shape[-1], settings.dropout, extractor.sight)
    settle(head, components)
    prepare(head, settings.head_learning_rate, settings, len(train_features.votes))

    def epoch(number: int) -> tf.data.Dataset:
        shuffled = train.shuffle(train.cardinality(), seed=settings.seed + number, reshuffle_each_iteration=False)
        return photos.batched(shuffled, settings.batch_size, share=extractor.share)

    return fit(
        head,
        settings.head_epochs,
        epoch,
        what="training the head",
        checkpoints=checkpoints,
        seed=settings.seed,
        validation=photos.batched(validation, settings.batch_size, share=extractor.share),
        workers=extractor.workers,
    )


def _fit_all(
    model: keras.Model, pretraining: Pretraining, extractor: Reader, settings: Training, checkpoints: Checkpoints
) -> tuple[keras.Model, Curves]:
    """Fine-tune the whole network, starting from the trained head."""
    if pretraining.start != "none":
        freeze_batch_norms(model)
    prepare(model, settings.learning_rate, settings, photos.counts(extractor.dataset)["train"])
    return fit(
        model,
        settings.epochs,
        extractor.epoch,
        what="training the network",
        checkpoints=checkpoints,
        seed=settings.seed,
        validation=extractor.plain("validation", extractor.share),
        workers=extractor.workers,
    )


def _heads(scorer: keras.Model, extractor: Reader) -> tuple[Heads, keras.Model | None]:
    """Return the jobs and attributes that could be learnt, and their heads' model; None without heads."""
    requested = extractor.told
    if not requested:
        return requested, None
    train, validation = (extractor.seen(scorer, split) for split in ("train", "validation"))
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
    jobs = _jobs(scorer, train, validation, len(head_spec.jobs)) if head_spec.jobs else ()
    return head_spec, auxiliary_heads.separate(scorer, head_spec, jobs, _weights(classifiers))


def _jobs(scorer: keras.Model, train: Seen, validation: Seen, n_jobs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the slopes and offsets of the known jobs."""
    votes_layer = scorer.get_layer("votes")
    return fit_jobs(
        *(
            Rated(split.features, np.asarray(votes_layer(split.features)), split.votes, split.jobs)
            for split in (train, validation)
        ),
        n_jobs,
    )


def _weights(classifiers: dict[str, tuple[np.ndarray, float]]) -> tuple[np.ndarray, ...]:
    """Return the attribute heads' weights ``[c, k]`` and intercepts ``[k]``; empty without attribute heads."""
    if not classifiers:
        return ()
    weights, intercepts = zip(*classifiers.values(), strict=True)
    return np.stack(weights, axis=1), np.array(intercepts)


def _strategy(settings: Training) -> tf.distribute.Strategy:
    """Return the strategy of one device, or of every GPU of the machine."""
    return tf.distribute.MirroredStrategy() if settings.devices == "all" else tf.distribute.get_strategy()


def _metrics(history: Curves, n_photos: int) -> dict[str, float]:
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
