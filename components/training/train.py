"""Fit the score head on a pretrained encoder: in closed form, or by epochs and then the whole network (NIMA)."""

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
    """Train a scorer: its head in closed form, or head and network by epochs, as `closed` says.

    By epochs it learns from the split ``train``, and the epoch with the lowest loss on ``validation`` is kept. The
    closed form chooses by leaving photos out, and learns from both.

    Args:
        dataset: TFDS directory.
        encoder: folder of the pretrained encoder.
        scorer: folder to write the bundle to.
        report: file to write the page to.
        settings: how to train. With ``devices`` "workers" every worker calls this, with the same checkpoints' address;
            the chief alone writes the bundle and the report.
        checkpoints: URI of the folder of this step's checkpoints.
        fingerprint: of the data set, written into the bundle.
        revision: git revision of the code, written into the bundle.

    Returns:
        ``training_loss`` and ``validation_loss`` of the epoch that was kept, or of the photos that were left out
        (squared EMD), ``training_epochs``, ``training_photos`` and ``training_minutes``; after the pipeline's own
        pretraining also ``pretraining_gain`` and ``pretraining_gain_low``, see ``pretraining_ablation``.

    Raises:
        ValueError: the data set has no photo to train or to validate on, or the settings contradict each other.
    """
    workers = join() if settings.devices == "workers" else None
    strategy = workers.strategy if workers else _strategy(settings)
    with strategy.scope():
        network, pretraining = bundle.load_encoder(encoder)
    check(settings, pretraining, photos.counts(dataset))
    rules = read_rules(settings)
    told = auxiliary_heads.find(photos.attributes(dataset, "train"), settings, rules.attributes)
    keras.utils.set_random_seed(settings.seed)
    identity = fingerprint_of(as_parameters(pretraining), as_parameters(settings), fingerprint, told.attributes)
    sight, components = find_sight(dataset, settings)
    if workers and closed(settings, sight):
        raise ValueError('a head in closed form is fitted by one machine in minutes: set devices to "one"')
    reader = Reader(dataset, pretraining.crop, settings, told, sight, workers)
    with strategy.scope():
        network = with_precision(network, "mixed_float16" if settings.mixed_precision else "float32")
        if closed(settings, sight):
            (model, head_curves), curves = _closed(network, components, reader, settings), {}
        else:
            places = [Checkpoints(storage.join(checkpoints, phase), identity) for phase in ("head", "all")]
            model, head_curves, curves = _by_epochs(network, components, pretraining, reader, settings, *places)
    history = {**{f"head_{name}": values for name, values in head_curves.items()}, **curves}
    if workers and not workers.chief:
        return _metrics(history, photos.counts(dataset)["train"])
    if settings.devices != "one":
        model = bundle.untrained(model)  # whose weights are this process's alone
    model = with_precision(model, "float32")
    told, apart = _heads(model, reader)
    faces = bundle.read_faces(dataset)
    if not sight.embedding:  # the detector finds faces for the norms, the embedder would be carried along for nothing
        faces = bundle.detector_alone(faces.get(embedder.DETECTOR, b""))
    worth = weigh(Reader(dataset, pretraining.crop, settings, Heads(), WHOLE), encoder)
    notes = (worth.warning,) if worth and worth.warning else ()
    made = Bundle(model, pretraining, settings, fingerprint, revision, history, told, apart, rules.norms, faces, notes)
    made.save(scorer)
    write_report(report, settings, told, made.reads, head_curves, curves, closed(settings, sight), str(worth or ""))
    return _metrics(history, photos.counts(dataset)["train"]) | (worth.figures if worth else {})


def closed(settings: Training, sight: Sight) -> bool:
    """Whether the head is fitted in closed form; the network then stays as it is."""
    return settings.fitting == "closed" or (settings.fitting == "auto" and sight.embedding > 0)


def check(settings: Training, pretraining: Pretraining, sizes: dict[str, int]) -> None:
    """Refuse what cannot be trained, before anything is computed."""
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
    network: keras.Model, components: Components | None, reader: Reader, settings: Training
) -> tuple[keras.Model, Curves]:
    """The head in closed form, on the photos of both splits; see ``ridge``."""
    encode = reader.encoding(network)
    seen = [reader.pooled(encode, split) for split in ("train", "validation")]
    as_taken = sum(len(each.votes) for each in seen)
    seen += [made for split in ("train", "validation") if (made := reader.spoiled(encode, split))]
    given, votes, raters = features.concatenated(seen)
    allowed = allowance(votes[:as_taken], raters[:as_taken], settings)
    votes, weights = allowed.learnt(votes, raters)
    head, curves = fit_closed(given, votes, reader.sight, components, settings, as_taken=as_taken, weights=weights)
    model = build_scorer(network, settings.dropout, reader.sight, head.get_layer(layers.NAME).kept)
    hand_over(head, model)
    return model, curves


def _by_epochs(
    network: keras.Model,
    components: Components | None,
    pretraining: Pretraining,
    reader: Reader,
    settings: Training,
    head_place: Checkpoints,
    place: Checkpoints,
) -> tuple[keras.Model, Curves, Curves]:
    """The head, then the whole network, by steps down the gradient (NIMA)."""
    head, head_curves = _fit_head(network, components, reader, settings, head_place)
    model = build_scorer(network, settings.dropout, reader.sight)
    settle(model, components)
    if head is not None:
        hand_over(head, model)
    model, curves = _fit_all(model, pretraining, reader, settings, place)
    return model, head_curves, curves


def prepare(model: keras.Model, rate: float, settings: Training, size: int) -> None:
    """Compile a head or a scorer for steps down the gradient.

    Args:
        model: gives votes.
        rate: of learning.
        settings: the terms of the loss, and over how many epochs weights are averaged.
        size: photos an epoch.
    """
    steps = settings.averaging * -(-size // settings.batch_size)
    loss = VotesLoss(settings.correlation_term, settings.rank_term)
    model.compile(ema.adam(rate, steps), loss=loss)


def _fit_head(
    network: keras.Model, components: Components | None, reader: Reader, settings: Training, place: Checkpoints
) -> tuple[keras.Model | None, Curves]:
    """The head alone, on features that are computed once: minutes instead of hours for the same epochs."""
    if not settings.head_epochs:
        return None, {}
    encode = reader.encoding(network)
    learnt, judged = (reader.pooled(encode, split) for split in ("train", "validation"))
    votes, weights = reader.allowed.learnt(learnt.votes, learnt.raters.astype("float32"))
    train = tf.data.Dataset.from_tensor_slices((learnt.given, votes, weights))
    validation = tf.data.Dataset.from_tensor_slices((judged.given, judged.votes))
    head = build_head(network.output_shape[-1], settings.dropout, reader.sight)
    settle(head, components)
    prepare(head, settings.head_learning_rate, settings, len(learnt.votes))

    def epoch(number: int) -> tf.data.Dataset:
        shuffled = train.shuffle(train.cardinality(), seed=settings.seed + number, reshuffle_each_iteration=False)
        return photos.batched(shuffled, settings.batch_size, share=reader.share)

    return fit(
        head,
        settings.head_epochs,
        epoch,
        what="training the head",
        checkpoints=place,
        seed=settings.seed,
        validation=photos.batched(validation, settings.batch_size, share=reader.share),
        workers=reader.workers,
    )


def _fit_all(
    model: keras.Model, pretraining: Pretraining, reader: Reader, settings: Training, place: Checkpoints
) -> tuple[keras.Model, Curves]:
    """The whole network, from the trained head."""
    if pretraining.start != "none":
        freeze_batch_norms(model)
    prepare(model, settings.learning_rate, settings, photos.counts(reader.dataset)["train"])
    return fit(
        model,
        settings.epochs,
        reader.epoch,
        what="training the network",
        checkpoints=place,
        seed=settings.seed,
        validation=reader.plain("validation", reader.share),
        workers=reader.workers,
    )


def _heads(scorer: keras.Model, reader: Reader) -> tuple[Heads, keras.Model | None]:
    """What the scorer can be told and asked, and its heads; None where that is nothing."""
    wanted = reader.told
    if not wanted:
        return wanted, None
    train, validation = (reader.seen(scorer, split) for split in ("train", "validation"))
    found = {}
    for place, name in enumerate(wanted.attributes):
        fitted = fit_attribute(*((seen.features, seen.attributes[:, place]) for seen in (train, validation)))
        if fitted is None:
            print(f"training: {name} cannot be told from what the scorer sees, and is left out", flush=True)
        else:
            found[name] = fitted
    told = replace(wanted, attributes={name: wanted.attributes[name] for name in found})
    if not told:
        return told, None
    jobs = _jobs(scorer, train, validation, len(told.jobs)) if told.jobs else ()
    return told, auxiliary_heads.separate(scorer, told, jobs, _weights(found))


def _jobs(scorer: keras.Model, train: Seen, validation: Seen, jobs: int) -> tuple[np.ndarray, np.ndarray]:
    """The slopes and offsets of the known jobs."""
    last = scorer.get_layer("votes")
    return fit_jobs(
        *(Rated(seen.features, np.asarray(last(seen.features)), seen.votes, seen.jobs) for seen in (train, validation)),
        jobs,
    )


def _weights(learnt: dict[str, tuple[np.ndarray, float]]) -> tuple[np.ndarray, ...]:
    """The weights ``[c, k]`` and intercepts ``[k]`` of attributes; nothing where there is none."""
    if not learnt:
        return ()
    weights, intercepts = zip(*learnt.values(), strict=True)
    return np.stack(weights, axis=1), np.array(intercepts)


def _strategy(settings: Training) -> tf.distribute.Strategy:
    """One device, or every GPU of the machine."""
    return tf.distribute.MirroredStrategy() if settings.devices == "all" else tf.distribute.get_strategy()


def _metrics(history: Curves, size: int) -> dict[str, float]:
    """The numbers for the pipeline's UI; of the head when the network as a whole was not trained."""
    prefix = "" if "loss" in history else "head_"
    kept = best_epoch({"val_loss": history[f"{prefix}val_loss"]}) - 1
    seconds = sum(sum(history.get(name, [])) for name in ("seconds", "head_seconds"))
    return {
        "training_loss": history[f"{prefix}loss"][kept],
        "validation_loss": history[f"{prefix}val_loss"][kept],
        "training_epochs": float(len(history.get("loss", []))),
        "training_photos": float(size),
        "training_minutes": seconds / 60,
    }
