"""Fit the score head on a pretrained encoder: in closed form, or by epochs and then the whole network (NIMA)."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from components.scorer import (
    averaging,
    bundle,
    embedding,
    examples,
    heads,
    photos,
    preprocessing,
    quadratic,
    stages,
    storage,
)
from components.scorer import model as networks
from components.scorer.bundle import Bundle
from components.scorer.checkpoints import Checkpoints, Curves, best_epoch, fingerprint_of, fit
from components.scorer.heads import Heads
from components.scorer.losses import VotesLoss
from components.scorer.model import build_head, build_scorer, freeze_batch_norms, hand_over, with_precision
from components.scorer.progress import track
from components.scorer.settings import Pretraining, Training, as_parameters, check_together
from components.scorer.sight import PIXELS, WHOLE, Components, Sight, in_order, settle
from components.scorer.stages import EMBEDDING, FOUND
from components.scorer.workers import Share, Workers, join
from components.training.attributes import fit_attribute
from components.training.closed_form import fit_closed
from components.training.faces import find_sight
from components.training.jobs import Rated, fit_jobs
from components.training.raters import Allowance, allowance
from components.training.report import write_report
from components.training.rules import read_rules
from components.training.spoiled import spoiled, worth_less
from components.training.worth import weigh


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
        pretraining also ``pretraining_gain`` and ``pretraining_gain_low``, see ``worth``.

    Raises:
        ValueError: the data set has no photo to train or to validate on, or the settings contradict each other.
    """
    workers = join() if settings.devices == "workers" else None
    strategy = workers.strategy if workers else _strategy(settings)
    with strategy.scope():
        network, pretraining = bundle.load_encoder(encoder)
    check(settings, pretraining, photos.counts(dataset))
    rules = read_rules(settings)
    told = heads.find(photos.attributes(dataset, "train"), settings, rules.attributes)
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
        faces = bundle.detector_alone(faces.get(embedding.DETECTOR, b""))
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


Encode = Callable[[Any], Any]
"""What a network says of what `examples.given` gives, as arrays."""


class Seen(NamedTuple):
    """A split's photos as the heads learn from them.

    Attributes:
        features: that the scorer pools, ``[n, c]``.
        votes: of people, ``[n, 10]``.
        jobs: by number, ``[n]``.
        attributes: ``[n, k]``: 1 yes, 0 no, -1 unknown.
    """

    features: np.ndarray
    votes: np.ndarray
    jobs: np.ndarray
    attributes: np.ndarray


class Pooled(NamedTuple):
    """Photos as the head learns from them.

    Attributes:
        given: what ``model.build_head`` takes, by name.
        votes: of people, ``[n, 10]``.
        raters: how many they are, ``[n]``.
    """

    given: dict[str, np.ndarray]
    votes: np.ndarray
    raters: np.ndarray


class Reader:
    """The data set as this training reads it."""

    def __init__(
        self,
        dataset: str | Path,
        crop: int,
        settings: Training,
        told: Heads,
        sight: Sight,
        workers: Workers | None = None,
    ):
        self.dataset, self.settings, self.told, self.sight, self.workers = dataset, settings, told, sight, workers
        self._read = {"scale": settings.scale, "crop": crop, "batch_size": settings.batch_size}
        if sight.view:
            self._read["view"] = photos.View(crop, settings.face_view_scale)
        self._reads = sight.needs(crop, settings.face_view_scale)

    @cached_property
    def _faces(self) -> embedding.Reader | None:
        """What finds and reads faces; None where the data set has nothing that could."""
        return embedding.Reader.load(Path(self.dataset, embedding.FOLDER))

    @property
    def share(self) -> Share | None:
        """This worker's part of each batch; None when it is alone."""
        return self.workers.share if self.workers else None

    @cached_property
    def allowed(self) -> Allowance:
        """How few raters are allowed for, by the training photos."""
        return allowance(*photos.votes(self.dataset, "train"), self.settings)

    def plain(self, split: str, share: Share | None = None) -> tf.data.Dataset:
        """The middle of each photo of a split, in stored order, and its votes; with a share that part of each batch."""
        return photos.batches(self.dataset, split, **self._read, example=examples.scored(self.sight), share=share)

    def epoch(self, number: int) -> tf.data.Dataset:
        """The training photos of one epoch, randomly cropped and mirrored, the votes to learn, and what they count."""
        allowed = self.allowed  # found here: within the map nothing can be read

        def learnt(votes: tf.Tensor, raters: tf.Tensor, fault: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            votes, weight = allowed.learnt(votes, raters)
            return tf.cond(fault, lambda: worth_less(votes), lambda: votes), weight

        return photos.augmented(
            self.dataset, "train", **self._read, seed=self.settings.seed, epoch=number,
            camera_faults=self.settings.camera_faults, example=examples.taught(self.sight, learnt),
            share=self.share,
        )  # fmt: skip

    def encoding(self, network: keras.Model) -> Encode:
        """What `pooled` and `spoiled` see photos with: an encoder's pooled features, by name."""
        return _traced(networks.pooling(network, self.sight))

    def pooled(self, encode: Encode, split: str) -> Pooled:
        """A split's photos as the head learns from them."""
        read = photos.batches(self.dataset, split, **self._read, example=examples.rated(self.sight))
        found = []
        for given, (votes, raters) in self._tracked(read, f"features of {split}", split):
            seen = encode(given) | _embedded(given if self.sight else {})
            found.append(Pooled(seen, votes.numpy(), raters.numpy()))
        return _concatenated(found)

    def spoiled(self, encode: Encode, split: str) -> Pooled | None:
        """The same of copies with the camera's faults, whose faces are looked for and read anew; None: of none."""
        share, size, found = self.settings.camera_faults, self.settings.batch_size, []
        if not share:
            return None
        copies = spoiled(self.dataset, split, share, self.settings.seed)
        batches = iter(lambda: [*itertools.islice(copies, size)], [])
        total = round(share * photos.counts(self.dataset)[split] / size)
        for batch in track(batches, f"features of copies with faults, {split}", total):
            data, votes, raters = zip(*batch, strict=True)
            read = stages.read(data, self._faces, self._reads)
            pixels = preprocessing.pixels(tf.constant(data), self.settings.scale, self._read["crop"])
            seen = encode({PIXELS: pixels, **read}) | _embedded(read)
            found.append(Pooled(seen, np.stack(votes), np.array(raters)))
        return _concatenated(found) if found else None

    def seen(self, scorer: keras.Model, split: str) -> Seen:
        """What a trained scorer sees on a split's photos, and what the data know of them."""
        see = _traced(keras.Model(scorer.inputs, networks.features(scorer)))
        read = photos.batches(self.dataset, split, **self._read, example=examples.headed(self.sight, self.told))
        found = [
            (see(given), *(each.numpy() for each in known))
            for given, known in self._tracked(read, f"heads: features of {split}", split)
        ]
        return Seen(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def _tracked(self, batches: tf.data.Dataset, what: str, split: str) -> Iterator:
        return track(batches, what, -(-photos.counts(self.dataset)[split] // self.settings.batch_size))


def _concatenated(parts: list) -> Any:
    """Arrays of several batches, in any structure, as those of one."""
    return tf.nest.map_structure(lambda *each: np.concatenate(each), *parts)


def _embedded(given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What of that is embeddings."""
    return {name: np.asarray(given[name]) for name in (EMBEDDING, FOUND) if name in given}


def _traced(network: keras.Model) -> Encode:
    """A network as a function of what `examples.given` gives, by arrays, traced once for batches of any size."""
    specs = {each.name: tf.TensorSpec(each.shape, tf.float32) for each in network.inputs}
    if keras.backend.backend() == "tensorflow":
        # As concrete functions: TensorFlow warns of many that are each traced at their first call.
        function = tf.function(lambda given: network(in_order(network, given), training=False), input_signature=[specs])
        traced, array = function.get_concrete_function(), tf.convert_to_tensor
    else:
        traced, array = network.predict_on_batch, np.asarray  # other backends take arrays alone

    def answer(given: Any) -> Any:
        named = given if isinstance(given, dict) else {PIXELS: given}
        return tf.nest.map_structure(np.asarray, traced({name: array(named[name]) for name in specs}))

    return answer


def _closed(
    network: keras.Model, components: Components | None, reader: Reader, settings: Training
) -> tuple[keras.Model, Curves]:
    """The head in closed form, on the photos of both splits; see ``closed_form``."""
    encode = reader.encoding(network)
    seen = [reader.pooled(encode, split) for split in ("train", "validation")]
    as_taken = sum(len(each.votes) for each in seen)
    seen += [made for split in ("train", "validation") if (made := reader.spoiled(encode, split))]
    given, votes, raters = _concatenated(seen)
    allowed = allowance(votes[:as_taken], raters[:as_taken], settings)
    votes, weights = allowed.learnt(votes, raters)
    head, curves = fit_closed(given, votes, reader.sight, components, settings, as_taken=as_taken, weights=weights)
    model = build_scorer(network, settings.dropout, reader.sight, head.get_layer(quadratic.NAME).kept)
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
    model.compile(averaging.adam(rate, steps), loss=loss)


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
    return told, heads.separate(scorer, told, jobs, _weights(found))


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
