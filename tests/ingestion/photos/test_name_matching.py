"""Matching of ratings to photos, and the error if none match: its likely cause and masked example names."""

import shutil
from pathlib import Path

import pytest

from components.ingestion.ingest import check_inputs, ingest
from components.ingestion.input_listing import read_inputs
from components.ingestion.photos.name_matching import extra_prefix, photo_ids_by_name
from components.scorer.parameters import from_parameters
from components.scorer.run.paths import RunPaths
from components.scorer.settings import Ingestion

NUMBER = 25


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder of photos that are never decoded: only their names count."""
    for number in range(NUMBER):
        path = tmp_path / "photos" / ("female" if number % 2 else "male") / f"anna{number:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"photo")
    return tmp_path


def names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder / "photos")) for path in sorted((folder / "photos").rglob("*.*"))]


def examined(folder: Path, lines: list[str], header: str = "photo,mean", **settings: object) -> str:
    (folder / "ratings.csv").write_text("\n".join([header, *lines, ""]))
    addresses = str(folder / "photos"), str(folder / "ratings.csv")
    return check_inputs(*addresses, "", "", from_parameters(Ingestion, **settings))


def refused(folder: Path, *arguments: object, **settings: object) -> str:
    with pytest.raises(ValueError, match="expected ratings of the photos, got none that can be used") as error:
        examined(folder, *arguments, **settings)
    message = str(error.value)
    assert len(message) < 1500
    assert "anna" not in message
    return message


@pytest.mark.slow
@pytest.mark.parametrize(
    "begin",
    ["photos/", "images/all/", "/home/me/photos/", "https://host/photos/", "gs://bucket/", "../photos/", "C:\\p\\"],
)
def test_a_folder_prefix_of_all_names_is_dropped_with_a_note(folder, begin):
    (folder / "ratings.csv").write_text("photo,mean\n" + "".join(f"{begin}{name},5\n" for name in names(folder)))
    addresses = str(folder / "photos"), str(folder / "ratings.csv")
    inputs = read_inputs(*addresses, "", "", "", Ingestion())
    assert sorted(inputs.photos["photo"]) == names(folder)
    assert inputs.left_out == ([], [])
    assert any("which was dropped to find them" in note for note in inputs.notes)


@pytest.mark.slow
def test_a_folder_prefix_is_dropped_if_photos_are_missing_and_from_attributes_too(folder):
    for table, column in (("ratings", "mean"), ("about", "job")):
        rows = "".join(f"images/{name},5\n" for name in [*names(folder), "male/gone.jpg"])
        (folder / f"{table}.csv").write_text(f"photo,{column}\n{rows}")
    addresses = str(folder / "photos"), str(folder / "ratings.csv")
    inputs = read_inputs(*addresses, "", str(folder / "about.csv"), "", Ingestion())
    assert sorted(inputs.photos["photo"]) == names(folder)
    assert [entry.reason for entry in inputs.left_out[0]] == ["no photo"]
    assert {attributes["job"] for attributes in inputs.photos["attributes"]} == {"5"}


@pytest.mark.slow
def test_names_without_their_folder_match_photos(folder):
    shutil.move(folder / "photos", folder / "inner")
    shutil.move(folder / "inner", folder / "photos" / "inner")
    lines = [f"{name.removeprefix('inner/')},5" for name in names(folder)]
    assert f"of {NUMBER} photos that are there" in examined(folder, lines)


def test_extra_prefix_is_the_shortest_that_makes_all_names_match():
    known = photo_ids_by_name(["a/1.jpg", "a/2.jpg"])
    assert extra_prefix(["x/a/1.jpg", "x/a/2.jpg"], known, 0) == "x/"
    assert extra_prefix(["a/1.jpg", "a/2.jpg"], known, 0) == ""
    assert extra_prefix(["x/1.jpg", "y/2.jpg"], known, 0) == ""
    assert extra_prefix(["x/a/1.jpg", "y/a/2.jpg"], known, 0) == ""
    assert extra_prefix(["x/a/1.jpg", "x/a/3.jpg"], known, 0.1) == ""
    assert extra_prefix([], known, 0) == ""


@pytest.mark.parametrize(
    ("change", "cause", "example"),
    [
        (str.upper, "upper and lower case differ", "•••/•••.JPG (ratings.csv line 2)"),
        (lambda name: name.replace(".jpg", ".png"), "the endings differ", "•••/•••.png (ratings.csv line 3)"),
        (lambda name: f"{name[-5]}/{name}", "the folders before the names", "•••/•••/•••.jpg (ratings.csv line 4)"),
        (
            lambda name: f"x/{name}".replace(".jpg", ".PNG"),
            "the folders before the names: all begin with 'x/', and the",
            "",
        ),
        (lambda name: f"{len(name)}{name[-7:-4]}", "these are ratings of other photos", "••• (ratings.csv line 2)"),
    ],
)
def test_names_without_photos_are_refused_with_examples_and_the_likely_cause(folder, change, cause, example):
    message = refused(folder, [f"{change(name)},5" for name in names(folder)])
    assert f"{NUMBER} for 'no photo'" in message
    assert f"Likely cause: {cause}" in message
    assert example in message
    assert "•••/•••.jpg (photo 1), •••/•••.jpg (photo 2), •••/•••.jpg (photo 3)." in message


@pytest.mark.slow
def test_an_ava_file_of_other_photos_is_refused_with_the_likely_cause(folder):
    lines = [f"{number} {953000 + number} 0 1 5 17 38 36 15 6 5 1 17 22 1396" for number in range(1, 30)]
    (folder / "AVA.txt").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"none that can be used; .* \(AVA\.txt line 1\).* ratings of other photos"):
        check_inputs(str(folder / "photos"), str(folder / "AVA.txt"), "", "", Ingestion())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("header", "row", "words"),
    [
        ("photo,mean", "{},", ["25 for 'no rating'", "ratings.csv line 2: no mean; ratings.csv line 3: no mean;"]),
        ("photo,rater,score", "{},x,", ["25 for 'no rating'", "ratings.csv line 2: no score"]),
        ("photo,rater,score", "{},x,77", ["25 for 'score out of range'", "ratings.csv line 2: 77", "set rating_scale"]),
        ("photo,1,2,3,4,5", "{},0,0,0,0,0", ["25 for 'no rating'", "ratings.csv line 2: no votes"]),
    ],
)
def test_a_file_without_a_usable_rating_is_refused_with_three_examples(folder, header, row, words):
    settings = {"rating_scale": "1-10"} if "77" in row else {}
    message = refused(folder, [row.format(name) for name in names(folder)], header, **settings)
    assert [word for word in words if word not in message] == []


def test_few_means_on_another_scale_are_refused_with_the_setting_to_use(folder):
    message = refused(folder, [f"{name},{50 + number}" for number, name in enumerate(names(folder)[:10])])
    assert "set rating_scale to the scale on which they were given (0-100)" in message


def test_more_names_without_a_photo_than_allowed_are_refused_with_the_cause(folder):
    lines = [f"{name if number % 2 else name.upper()},5" for number, name in enumerate(names(folder))]
    with pytest.raises(ValueError, match=r"more than maximum_left_out allows") as error:
        examined(folder, lines)
    assert "Likely cause: upper and lower case differ" in str(error.value)


def test_ingestion_refuses_unmatched_names_before_it_opens_a_photo_and_lists_them_for_the_operator(folder):
    (folder / "ratings.csv").write_text("photo,mean\n" + "".join(f"{name.upper()},5\n" for name in names(folder)))
    run_paths = RunPaths(str(folder / "workspace"), "run")
    addresses = [str(folder / name) for name in ("photos", "ratings.csv", "dataset", "report.html")]
    with pytest.raises(ValueError, match="Likely cause: upper and lower case differ"):
        ingest(*addresses, workspace=run_paths, settings=Ingestion())
    assert Path(run_paths.left_out).read_text().count("ANNA") == NUMBER
    assert not (folder / "dataset").exists()
