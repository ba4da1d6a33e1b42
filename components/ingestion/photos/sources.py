"""Photo sources: a folder, a bucket, a TFDS data set, or the synthetic sample.

Every source provides its photos as addresses that `storage.read_bytes` reads. So worker processes and Beam workers need
nothing but text. The addresses of sources:

* A local folder (or ``file://``), ``gs://…`` or ``s3://…``: the image files at any depth.
* ``tfds:name[:version][/split]``: a data set of TensorFlow Datasets with an image feature, in ``TFDS_DATA_DIR``.
* ``tfds:/a/folder[/split]``: a TFDS data set in that folder. The photos of both are written to a scratch folder as they
  are listed.
* ``sample:`` or, with other numbers, ``sample:labelled=40&unlabelled=20&seed=2``: the synthetic sample. It is drawn
  into a scratch folder, with its ratings, attributes and unlabelled photos.
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

from components.ingestion.exclusions import Exclusion
from components.scorer import storage
from components.scorer.imaging.decoding import SUFFIXES, is_photo

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

_LINK_OUTSIDE, _BROKEN_LINK = "a link that leads out", "a link to a file that is not there: fetch it"

# Features of a TFDS data set, in order of preference.
_IMAGE_FEATURES = ("image", "photo")
_NAME_FEATURES = ("photo_id", "image_id", "file_name", "filename", "image/file_name", "image/filename", "name", "id")
_MAGIC_NUMBERS = ((b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"))  # magic numbers of the encodings that TFDS stores


@dataclass(frozen=True)
class PhotoSource:
    """A photo source and the files that come with it.

    Attributes:
        uri: Address of the photos.
        ratings, attributes: Addresses of files about the photos, or ``""``.
        unlabelled: Folder of further photos without ratings, or ``""``.
        left_out: Exclusions found by `photos`; filled while it runs.
        versions: Version by photo address, filled by `photos`. A version is a text that changes when the file is
            replaced.
    """

    uri: str
    ratings: str = ""
    attributes: str = ""
    unlabelled: str = ""
    left_out: list[Exclusion] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    def photos(self) -> Iterator[tuple[str, str]]:
        """Yield each photo's id (its path in the source, with ``/``) and the address that `storage.read_bytes` reads.

        Hidden files and folders are skipped. So are files that are not photos by their suffix or, without a suffix, by
        their content. Links and names that lead out of the source are excluded.

        Raises:
            FileNotFoundError: There is no such folder or data set.
            ValueError: The source has no photos.
        """
        self.left_out.clear()
        self.versions.clear()
        n_photos = 0
        for photo, uri, version in self._list_photos():
            n_photos += 1
            self.versions[uri] = version
            yield photo, uri
        if not n_photos:
            raise self._no_photos_error()

    def _no_photos_error(self) -> ValueError:
        """Return the error for a source without photos. If the photos are links, it says where they lead."""
        n_links = sum(entry.detail in (_LINK_OUTSIDE, _BROKEN_LINK) for entry in self.left_out)
        if not n_links:
            return ValueError(f"expected photos ({', '.join(SUFFIXES)}) in {self.uri}, found none")
        n_broken = sum(entry.detail == _BROKEN_LINK for entry in self.left_out)
        return ValueError(
            f"expected photos in {self.uri}, found none but {n_links:,} links that lead out of this folder"
            + (f" ({n_broken:,} of them to files that are not there)" if n_broken else "")
            + "; put the files themselves there, as `git annex unlock`, `cp -rL`, or `dvc config cache.type copy` with "
            "`dvc checkout --relink` do" + (", once `git annex get` or `dvc pull` has fetched them" if n_broken else "")
        )

    def _list_photos(self) -> Iterator[tuple[str, str, str]]:
        """Yield each photo's id, address and version."""
        return _list_bucket(self) if storage.is_remote(self.uri) else _list_folder(self)


def open_source(uri: str, scratch: str = "") -> PhotoSource:
    """Return the source at an address.

    Args:
        uri: Address, see the module's docstring.
        scratch: Folder for the photos of ``tfds:`` and ``sample:``. If Beam workers on other machines read them, they
            must reach it. A sample drawn by an earlier attempt is reused.

    Raises:
        ValueError: The address is malformed, or needs a scratch folder and there is none.
    """
    kind, _, options = uri.partition(":")
    if kind not in ("tfds", "sample"):
        return PhotoSource(uri)
    if not scratch:
        raise ValueError(f"expected a scratch folder to write the photos of {uri} to, got none")
    return _TfdsSource(uri, scratch=scratch) if kind == "tfds" else _open_sample(options, scratch)


def list_photos(uri: str, scratch: str = "") -> list[tuple[str, str]]:
    """Return the id and address of each photo of a source, as a list."""
    return list(open_source(uri, scratch).photos())


def _list_folder(source: PhotoSource) -> Iterator[tuple[str, str, str]]:
    """Yield the photos of a local folder in the order of their ids: id, address and version."""
    root = os.path.abspath(source.uri.removeprefix("file://"))
    if not os.path.isdir(root):
        raise FileNotFoundError(f"expected a folder of photos at {source.uri}, found none")
    real_root = os.path.realpath(root)
    names = []
    for folder, folders, files in os.walk(root):
        for entry in (*folders, *files):
            path = os.path.join(folder, entry)
            name = os.path.relpath(path, root).replace(os.sep, "/")
            if _is_hidden(name) or (entry in files and not is_photo(name, partial(_read_beginning, path))):
                continue
            if os.path.islink(path) and not os.path.exists(path):
                source.left_out.append(Exclusion(_printable(name), "unreadable", _BROKEN_LINK))
            elif os.path.islink(path) and not _is_inside(os.path.realpath(path) + "/", real_root):
                source.left_out.append(Exclusion(_printable(name), "path outside the folder", _LINK_OUTSIDE))
            elif os.path.isfile(path):
                names.append(name)
        # Links to folders are not followed: a target in this folder is listed anyway.
        folders[:] = [entry for entry in folders if not entry.startswith(".")]
    for name in sorted(names):
        if _printable(name) == name:
            path = os.path.join(root, name)
            yield name, path, _version(path)
        else:
            source.left_out.append(Exclusion(_printable(name), "unreadable", "its name is not UTF-8: rename it"))


def _list_bucket(source: PhotoSource) -> Iterator[tuple[str, str, str]]:
    """Yield the photos below a bucket address in the order of their ids: id, address and version."""
    for file in storage.list_files(source.uri):
        if not is_photo(file.name, partial(storage.read_first_bytes, file)):
            continue
        if _is_inside(posixpath.normpath(f"/folder/{file.name}"), "/folder"):
            yield file.name, file.uri, file.version
        else:
            source.left_out.append(Exclusion(file.name, "path outside the folder", "its name leads upwards"))


def _version(path: str) -> str:
    """Return the modification time and size of a file as text; "" if it was just removed."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{status.st_mtime_ns}-{status.st_size}"


def _read_beginning(path: str) -> bytes:
    """Return the first 32 bytes of a file; none if it is no file or cannot be read."""
    if not os.path.isfile(path):
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(32)
    except OSError:
        return b""


def _is_hidden(name: str) -> bool:
    """Return whether a file or a folder above it is hidden, as a Mac's ``._photo.jpg`` in archives."""
    return any(part.startswith(".") and part != ".." for part in name.split("/"))


def _is_inside(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def _printable(name: str) -> str:
    """Return the name, with a question mark for each byte that is not UTF-8."""
    return name.encode("utf-8", "replace").decode()


def _open_sample(options: str, scratch: str) -> PhotoSource:
    """Return the synthetic sample as a source, drawn into a folder of its own."""
    from components.ingestion.sample import draw_sample

    numbers = dict(parse_qsl(options, keep_blank_values=True))
    if not all(name in ("labelled", "unlabelled", "seed") and text.isdigit() for name, text in numbers.items()):
        raise ValueError(f"expected sample: or sample:labelled=40&unlabelled=20&seed=2, got sample:{options}")
    folder = Path(scratch, "-".join(["sample", *map("".join, numbers.items())]))
    if not folder.exists():  # `draw` is atomic
        draw_sample(folder, **{name: int(text) for name, text in numbers.items()})
    return PhotoSource(
        str(folder / "photos"),
        ratings=str(folder / "ratings.csv"),
        attributes=str(folder / "attributes.csv"),
        unlabelled=str(folder / "unlabelled"),
    )


@dataclass(frozen=True)
class _TfdsSource(PhotoSource):
    """The photos of a TFDS data set, written to the scratch folder one by one."""

    scratch: str = ""

    def _list_photos(self) -> Iterator[tuple[str, str, str]]:
        import tensorflow_datasets as tfds

        builder, splits = _find_builder(self.uri)
        image, name = _find_features(self.uri, builder.info.features)
        wanted = {image: True} | ({name: True} if name else {})
        decoders = tfds.decode.PartialDecoding(wanted, decoders={image: tfds.decode.SkipDecoding()})
        folder = storage.join(self.scratch, re.sub(r"\W+", "-", self.uri))
        listed_ids = set()
        for split in splits:
            config = tfds.ReadConfig(add_tfds_id=True, try_autocache=False)
            for example in builder.as_dataset(split=split, decoders=decoders, read_config=config).as_numpy_iterator():
                data, tfds_id = example[image], example["tfds_id"].decode()
                photo_name = example[name].decode() if name else tfds_id
                folder_in_id = split if len(splits) > 1 else ""
                photo = _photo_id(folder_in_id, photo_name, data)
                if photo in listed_ids:  # the name feature is not unique
                    photo = _photo_id(folder_in_id, f"{photo_name}-{tfds_id}", data)
                listed_ids.add(photo)
                if not _is_inside(posixpath.normpath(f"/folder/{photo}"), "/folder"):
                    self.left_out.append(Exclusion(photo, "path outside the folder", "its name leads upwards"))
                    continue
                uri = storage.join(folder, photo)
                storage.write_bytes(uri, data)
                # The version is a hash: the file is rewritten each time, so its modification time says nothing.
                yield photo, uri, hashlib.sha256(data).hexdigest()


def _find_builder(uri: str) -> "tuple[tfds.core.DatasetBuilder, list[str]]":
    """Return the prepared data set at a ``tfds:…`` address, and the selected splits."""

    match = re.fullmatch(r"tfds:([^:]+)(?::([^:/]+))?(?:/(\w+))?", uri)
    if not match:
        raise ValueError(f"expected tfds:name[:version][/split], got {uri}")
    name, version, split = match.groups()
    # Without a version, the text after the last slash is a split or a part of the name.
    parent, _, last = name.rpartition("/")
    candidates = [(f"{name}:{version}" if version else name, split)]
    if parent and not version:
        candidates.insert(0, (parent, last))
    for name, split in candidates:
        builder = _prepare_builder(uri, name)
        if builder and (split is None or split in builder.info.splits):
            return builder, [split] if split else sorted(builder.info.splits)
    raise FileNotFoundError(
        f"expected a data set of TFDS at {uri}, found none; check the name and the split, and set TFDS_DATA_DIR to "
        "the folder that holds it"
    )


def _prepare_builder(uri: str, name: str) -> "tfds.core.DatasetBuilder | None":
    """Return the data set with this name or in this folder, downloaded if needed. None if there is none."""
    import tensorflow_datasets as tfds

    from components.scorer.data import photos

    if name.startswith("/"):
        return photos.builder(name) if Path(name, "dataset_info.json").is_file() else None
    data_dir = os.environ.get("TFDS_DATA_DIR")
    for file in Path(data_dir, re.split("[/:]", name)[0]).rglob("features.json") if data_dir else ():
        photos.check_features(file.parent)
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError:
        return None
    try:
        builder.download_and_prepare()
    except Exception as error:  # each data set raises its own errors
        raise FileNotFoundError(
            f"cannot download {uri}: {error}; prepare it elsewhere and set TFDS_DATA_DIR"
        ) from error
    return builder


def _find_features(uri: str, features: "tfds.features.FeaturesDict") -> tuple[str, str]:
    """Return the names of the image feature and of the name feature. The second is "" if there is none."""
    import tensorflow_datasets as tfds

    images = [name for name, feature in features.items() if isinstance(feature, tfds.features.Image)]
    preferred = [name for name in _IMAGE_FEATURES if name in images] or images
    if not preferred:
        raise ValueError(f"expected an image feature in {uri}, got {sorted(features)}")
    texts = [name for name in _NAME_FEATURES if name in features and isinstance(features[name], tfds.features.Text)]
    return preferred[0], texts[0] if texts else ""


def _photo_id(split: str, name: str, data: bytes) -> str:
    """Return a photo's id: its name with the suffix of its encoding.

    The split is the folder of the id if there are several splits.
    """
    suffix = next((suffix for magic, suffix in _MAGIC_NUMBERS if data.startswith(magic)), "")
    return posixpath.join(split, name if is_photo(name) else name + suffix)
