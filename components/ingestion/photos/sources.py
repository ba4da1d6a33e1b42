"""Where photos come from: a folder, a bucket, a TFDS data set, or the drawn sample.

Every source ends as addresses that `storage.read_bytes` reads, so that worker processes and Beam workers need
nothing but text:

* a local folder (or ``file://``), ``gs://…`` and ``s3://…``: the image files at any depth;
* ``tfds:name[:version][/split]``: a data set of TensorFlow Datasets with an image feature, in its own
  ``TFDS_DATA_DIR``; ``tfds:/a/folder[/split]``: one that lies there. Its photos are written to a scratch
  folder as they are asked for;
* ``sample:`` or, for other numbers, ``sample:labelled=40&unlabelled=20&seed=2``: the sample, drawn into a
  scratch folder, with its ratings, attributes and unlabelled photos.
"""

import hashlib
import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from components.ingestion.exclusions import LeftOut
from components.scorer import storage
from components.scorer.imaging.decoding import SUFFIXES, is_photo

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

_LEADS_OUT, _LEADS_NOWHERE = "a link that leads out", "a link to a file that is not there: fetch it"

# Features of a TFDS data set, in the order in which they are preferred.
_IMAGES = ("image", "photo")
_NAMES = ("photo_id", "image_id", "file_name", "filename", "image/file_name", "image/filename", "name", "id")
_MAGIC = ((b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"))  # how the encodings that TFDS stores begin


@dataclass(frozen=True)
class Source:
    """Photos, and the files that come with them.

    Attributes:
        uri: where the photos lie.
        ratings, attributes: files about the photos, or ``""``.
        unlabelled: a folder of further photos that nobody rated, or ``""``.
        left_out: what `photos` met and did not give; filled while it runs.
        versions: by the address of each photo that `photos` gave, a text that changes when its file is replaced.
    """

    uri: str
    ratings: str = ""
    attributes: str = ""
    unlabelled: str = ""
    left_out: list[LeftOut] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    def photos(self) -> Iterator[tuple[str, str]]:
        """Each photo's id (its path in the source, with ``/``) and the address that `storage.read_bytes` reads.

        Hidden files and folders, and files that are no photos by their suffix or, without one, by their content, are
        passed over. What leads out of the source is left out.

        Raises:
            FileNotFoundError: there is no such folder or data set.
            ValueError: there are no photos in it.
        """
        self.left_out.clear()
        self.versions.clear()
        found = 0
        for photo, uri, version in self._listed():
            found += 1
            self.versions[uri] = version
            yield photo, uri
        if not found:
            raise self._nothing()

    def _nothing(self) -> ValueError:
        """The error that there are no photos, which says where they are instead, if they are links."""
        links = sum(entry.detail in (_LEADS_OUT, _LEADS_NOWHERE) for entry in self.left_out)
        if not links:
            return ValueError(f"expected photos ({', '.join(SUFFIXES)}) in {self.uri}, found none")
        nowhere = sum(entry.detail == _LEADS_NOWHERE for entry in self.left_out)
        return ValueError(
            f"expected photos in {self.uri}, found none but {links:,} links that lead out of this folder"
            + (f" ({nowhere:,} of them to files that are not there)" if nowhere else "")
            + "; put the files themselves there, as `git annex unlock`, `cp -rL`, or `dvc config cache.type copy` with "
            "`dvc checkout --relink` do" + (", once `git annex get` or `dvc pull` has fetched them" if nowhere else "")
        )

    def _listed(self) -> Iterator[tuple[str, str, str]]:
        """Yield each photo's id, address and version."""
        return _in_bucket(self) if storage.is_remote(self.uri) else _in_folder(self)


def open_source(uri: str, scratch: str = "") -> Source:
    """The source at an address.

    Args:
        uri: as described above.
        scratch: folder for the photos of ``tfds:`` and ``sample:``; where Beam workers on other machines are to
            read them, one that these reach. What lies there from an earlier attempt is used again.

    Raises:
        ValueError: the address is not understood, or needs a scratch folder and there is none.
    """
    kind, _, rest = uri.partition(":")
    if kind not in ("tfds", "sample"):
        return Source(uri)
    if not scratch:
        raise ValueError(f"expected a scratch folder to write the photos of {uri} to, got none")
    return _Tfds(uri, scratch=scratch) if kind == "tfds" else _sample(rest, scratch)


def photo_files(uri: str, scratch: str = "") -> list[tuple[str, str]]:
    """Id and address of each photo of a source: `Source.photos` of `open_source`, as a list."""
    return list(open_source(uri, scratch).photos())


def _in_folder(source: Source) -> Iterator[tuple[str, str, str]]:
    """The photos in a local folder, in the order of their ids."""
    root = os.path.abspath(source.uri.removeprefix("file://"))
    if not os.path.isdir(root):
        raise FileNotFoundError(f"expected a folder of photos at {source.uri}, found none")
    real_root = os.path.realpath(root)
    names = []
    for folder, folders, files in os.walk(root):
        for entry in (*folders, *files):
            path = os.path.join(folder, entry)
            name = os.path.relpath(path, root).replace(os.sep, "/")
            if _hidden(name) or (entry in files and not is_photo(name, partial(_beginning, path))):
                continue
            if os.path.islink(path) and not os.path.exists(path):
                source.left_out.append(LeftOut(_readable(name), "unreadable", _LEADS_NOWHERE))
            elif os.path.islink(path) and not _inside(os.path.realpath(path) + "/", real_root):
                source.left_out.append(LeftOut(_readable(name), "path outside the folder", _LEADS_OUT))
            elif os.path.isfile(path):
                names.append(name)
        # Links to folders are not followed: what they show in the folder is listed anyway.
        folders[:] = [entry for entry in folders if not entry.startswith(".")]
    for name in sorted(names):
        if _readable(name) == name:
            path = os.path.join(root, name)
            yield name, path, _version(path)
        else:
            source.left_out.append(LeftOut(_readable(name), "unreadable", "its name is not UTF-8: rename it"))


def _in_bucket(source: Source) -> Iterator[tuple[str, str, str]]:
    """The photos below an address in a bucket, in the order of their ids."""
    for file in storage.files(source.uri):
        if not is_photo(file.name, partial(storage.read_beginning, file)):
            continue
        if _inside(posixpath.normpath(f"/folder/{file.name}"), "/folder"):
            yield file.name, file.uri, file.version
        else:
            source.left_out.append(LeftOut(file.name, "path outside the folder", "its name leads upwards"))


def _version(path: str) -> str:
    """Return when a file was last written, and its size; "" where it has just been removed."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{status.st_mtime_ns}-{status.st_size}"


def _beginning(path: str) -> bytes:
    """The first bytes of a file; none of what is no file or cannot be read."""
    if not os.path.isfile(path):
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(32)
    except OSError:
        return b""


def _hidden(name: str) -> bool:
    """Whether a file or a folder above it is hidden, as a Mac's ``._photo.jpg`` in archives."""
    return any(part.startswith(".") and part != ".." for part in name.split("/"))


def _inside(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def _readable(name: str) -> str:
    """The name, with a question mark for each byte that is not UTF-8."""
    return name.encode("utf-8", "replace").decode()


def _sample(options: str, scratch: str) -> Source:
    """The drawn sample, in a folder of its own."""
    from components.ingestion.sample import draw

    numbers = dict(parse_qsl(options, keep_blank_values=True))
    if not all(name in ("labelled", "unlabelled", "seed") and text.isdigit() for name, text in numbers.items()):
        raise ValueError(f"expected sample: or sample:labelled=40&unlabelled=20&seed=2, got sample:{options}")
    folder = Path(scratch, "-".join(["sample", *map("".join, numbers.items())]))
    if not folder.exists():  # drawn as a whole or not at all
        draw(folder, **{name: int(text) for name, text in numbers.items()})
    return Source(
        str(folder / "photos"),
        ratings=str(folder / "ratings.csv"),
        attributes=str(folder / "attributes.csv"),
        unlabelled=str(folder / "unlabelled"),
    )


@dataclass(frozen=True)
class _Tfds(Source):
    """The photos of a TFDS data set, written to the scratch folder one by one."""

    scratch: str = ""

    def _listed(self) -> Iterator[tuple[str, str, str]]:
        import tensorflow_datasets as tfds

        builder, splits = _builder(self.uri)
        image, name = _features(self.uri, builder.info.features)
        wanted = {image: True} | ({name: True} if name else {})
        decoders = tfds.decode.PartialDecoding(wanted, decoders={image: tfds.decode.SkipDecoding()})
        folder = storage.join(self.scratch, re.sub(r"\W+", "-", self.uri))
        given = set()
        for split in splits:
            config = tfds.ReadConfig(add_tfds_id=True, try_autocache=False)
            for example in builder.as_dataset(split=split, decoders=decoders, read_config=config).as_numpy_iterator():
                data, number = example[image], example["tfds_id"].decode()
                called = example[name].decode() if name else number
                within = split if len(splits) > 1 else ""
                photo = _id(within, called, data)
                if photo in given:  # a name that is no name of photos alone
                    photo = _id(within, f"{called}-{number}", data)
                given.add(photo)
                if not _inside(posixpath.normpath(f"/folder/{photo}"), "/folder"):
                    self.left_out.append(LeftOut(photo, "path outside the folder", "its name leads upwards"))
                    continue
                uri = storage.join(folder, photo)
                storage.write_bytes(uri, data)
                yield photo, uri, hashlib.sha256(data).hexdigest()  # its file is written anew each time


def _builder(uri: str) -> "tuple[tfds.core.DatasetBuilder, list[str]]":
    """The prepared data set at an address ``tfds:…``, and the splits that are meant."""

    found = re.fullmatch(r"tfds:([^:]+)(?::([^:/]+))?(?:/(\w+))?", uri)
    if not found:
        raise ValueError(f"expected tfds:name[:version][/split], got {uri}")
    name, version, split = found.groups()
    # Without a version, what follows the last slash is a split, or a part of the name.
    parent, _, last = name.rpartition("/")
    tries = [(f"{name}:{version}" if version else name, split)]
    if parent and not version:
        tries.insert(0, (parent, last))
    for name, split in tries:
        builder = _prepared(uri, name)
        if builder and (split is None or split in builder.info.splits):
            return builder, [split] if split else sorted(builder.info.splits)
    raise FileNotFoundError(
        f"expected a data set of TFDS at {uri}, found none; check the name and the split, and set TFDS_DATA_DIR to "
        "the folder that holds it"
    )


def _prepared(uri: str, name: str) -> "tfds.core.DatasetBuilder | None":
    """The data set of this name or in this folder, downloaded if need be; None when there is none."""
    import tensorflow_datasets as tfds

    from components.scorer.data import photos

    if name.startswith("/"):
        return photos.builder(name) if Path(name, "dataset_info.json").is_file() else None
    prepared = os.environ.get("TFDS_DATA_DIR")
    for file in Path(prepared, re.split("[/:]", name)[0]).rglob("features.json") if prepared else ():
        photos.check_features(file.parent)
    try:
        builder = tfds.builder(name, data_dir=prepared)
    except tfds.core.registered.DatasetNotFoundError:
        return None
    try:
        builder.download_and_prepare()
    except Exception as error:  # what a download raises is up to each data set
        raise FileNotFoundError(
            f"cannot download {uri}: {error}; prepare it elsewhere and set TFDS_DATA_DIR"
        ) from error
    return builder


def _features(uri: str, features: "tfds.features.FeaturesDict") -> tuple[str, str]:
    """The feature that is the photo, and the one that is its name, or ``""``."""
    import tensorflow_datasets as tfds

    images = [name for name, feature in features.items() if isinstance(feature, tfds.features.Image)]
    preferred = [name for name in _IMAGES if name in images] or images
    if not preferred:
        raise ValueError(f"expected an image feature in {uri}, got {sorted(features)}")
    texts = [name for name in _NAMES if name in features and isinstance(features[name], tfds.features.Text)]
    return preferred[0], texts[0] if texts else ""


def _id(split: str, name: str, data: bytes) -> str:
    """A photo's id: its name, below its split where there are several, with the suffix of its encoding."""
    suffix = next((suffix for magic, suffix in _MAGIC if data.startswith(magic)), "")
    return posixpath.join(split, name if is_photo(name) else name + suffix)
