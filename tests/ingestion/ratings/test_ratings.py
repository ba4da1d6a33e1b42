"""Ratings files: how each form is read, which error each fault gives, and which votes stand for a mean."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.ingestion.photos.name_matching import photo_ids_by_name
from components.ingestion.ratings import maximum_entropy
from components.ingestion.ratings.ratings import VOTE_COLUMNS, Ratings, read_attributes, read_ratings
from components.scorer.parameters import from_parameters
from components.scorer.settings import SCORES, Ingestion

TEN = ",".join(map(str, SCORES))
DEFAULTS = Ingestion()
few = settings(max_examples=40, deadline=None, derandomize=True)


@pytest.fixture
def read(tmp_path: Path):
    """Write a file and read it as ratings."""

    def write_and_read(content: str | bytes, name: str = "ratings.csv", **settings) -> Ratings:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_ratings(str(path), from_parameters(Ingestion, **settings))

    return write_and_read


def votes(ratings: Ratings, photo: str) -> list[float]:
    return ratings.table.loc[photo, list(VOTE_COLUMNS)].astype(float).round(6).tolist()


def means(ratings: Ratings) -> pd.Series:
    return ratings.table[list(VOTE_COLUMNS)] @ np.array(SCORES)


def stds(ratings: Ratings) -> pd.Series:
    return np.sqrt(ratings.table[list(VOTE_COLUMNS)] @ np.square(SCORES) - means(ratings) ** 2)


def shares(**given: float) -> list[float]:
    """Return ten shares of votes; ``p7=0.5`` puts half of the votes on 7."""
    return [given.get(name, 0.0) for name in VOTE_COLUMNS]


def reasons(ratings: Ratings) -> dict[str, str]:
    return {exclusion.photo: exclusion.reason for exclusion in ratings.left_out}


# --- One row per rating


def test_one_row_per_rating_becomes_shares_of_votes(read):
    ratings = read("photo,rater,score\na.jpg,x,7\na.jpg,y,8\nb.jpg,x,1\n")
    assert ratings.schema == "ratings"
    assert votes(ratings, "a.jpg") == shares(p7=0.5, p8=0.5)
    assert votes(ratings, "b.jpg") == shares(p1=1)
    assert ratings.table["raters"].to_dict() == {"a.jpg": 2, "b.jpg": 1}


def test_a_score_between_two_whole_scores_is_split_between_them(read):
    ratings = read("photo,rater,score\na,x,7.25\nb,x,10\nc,x,1.0\n")
    assert votes(ratings, "a") == shares(p7=0.75, p8=0.25)
    assert votes(ratings, "b") == shares(p10=1)
    assert votes(ratings, "c") == shares(p1=1)
    assert any("between two whole ones" in note for note in ratings.notes)


def test_a_raters_last_score_for_a_photo_counts(read):
    ratings = read("photo,rater,score\na,x,2\na,y,5\na,x,9\n")
    assert votes(ratings, "a") == shares(p5=0.5, p9=0.5)
    assert ratings.single_ratings.to_dict("list") == {"photo": ["a", "a"], "rater": ["y", "x"], "score": [5, 9]}
    assert any("again" in note for note in ratings.notes)


def test_each_rating_without_a_rater_counts_as_another_rater(read):
    ratings = read("photo,score\na,2\na,3\na,3\nb,4\n")
    assert ratings.schema == "ratings"
    assert ratings.table["raters"].to_dict() == {"a": 3, "b": 1}
    assert ratings.single_ratings["rater"].nunique() == 4


def test_an_unnamed_rater_counts_as_another_rater(read):
    ratings = read("photo,rater,score\na,,2\na,,4\na,x,6\n")
    assert ratings.table["raters"].to_dict() == {"a": 3}
    assert ratings.single_ratings["rater"].nunique() == 3


def test_a_row_without_a_score_is_skipped_and_a_photo_without_scores_is_excluded(read):
    ratings = read("photo,rater,score\na,x,\na,y,3\nb,x,\n")
    assert votes(ratings, "a") == shares(p3=1)
    assert [(exclusion.photo, exclusion.reason, exclusion.detail) for exclusion in ratings.left_out] == [
        ("b", "no rating", "ratings.csv line 4: no score")
    ]


# --- Ten vote counts


@pytest.mark.parametrize("prefix", ["", "p", "votes_", "Votes ", "c", "rating-"])
def test_ten_counts_are_recognised_by_their_numbers(read, prefix):
    header = ["image", *(f"{prefix}{score}" for score in reversed(SCORES))]
    ratings = read(",".join(header) + "\na,0,0,1,3,0,0,0,0,0,0\n")
    assert ratings.schema == "counts"
    assert votes(ratings, "a") == shares(p8=0.25, p7=0.75)
    assert ratings.table["raters"].tolist() == [4]


def test_shares_instead_of_counts_leave_the_number_of_raters_unknown(read):
    ratings = read(f"photo,{TEN}\na,0,0,0,0,.5,.5,0,0,0,0\nb,0,0,0,0,0,0,1,0,0,0\n", minimum_raters=3)
    assert votes(ratings, "a") == shares(p5=0.5, p6=0.5)
    assert ratings.table["raters"].tolist() == [0, 0]
    assert any("minimum_raters does not apply" in note for note in ratings.notes)


def test_a_scores_file_of_this_project_is_read_as_counts(read):
    header = "photo,mean,std," + ",".join(VOTE_COLUMNS)
    ratings = read(f"{header}\na,7.5,.5,0,0,0,0,0,0,.5,.5,0,0\n")
    assert ratings.schema == "counts"
    assert ratings.attributes == ()


def test_a_photo_without_votes_is_excluded(read):
    ratings = read(f"photo,{TEN}\na,0,0,0,0,0,0,0,0,0,0\nb,0,0,0,0,0,0,1,0,0,0\n")
    assert reasons(ratings) == {"a": "no rating"}


# --- Means


@pytest.mark.parametrize("header", ["name,mos,std,count", "photo,mean,sd,raters", "Image ID,Mean Score,Std Dev,n"])
def test_a_mean_with_std_and_count_becomes_votes_with_these_moments(read, header):
    ratings = read(f"{header}\na,6.2,1.4,30\nb,3.1,0.9,12\n")
    assert ratings.schema == "means"
    assert means(ratings).to_numpy() == pytest.approx([6.2, 3.1])
    assert stds(ratings).to_numpy() == pytest.approx([1.4, 0.9])
    assert ratings.table["raters"].tolist() == [30, 12]


def test_the_splits_of_a_pyiqa_table_are_read(read):
    ratings = read("img_name,mos,std,split\na.jpg,6.2,1.4,train\nb.jpg,3.1,.9,val\nc.jpg,3,1,test\n")
    assert ratings.table["split"].tolist() == ["train", "validation", "test"]


def test_a_mean_alone_gets_the_std_of_the_setting_and_a_note_says_so(read):
    ratings = read("photo,mean\na,5\nb,6.5\n", rater_std=1.7)
    assert means(ratings).to_numpy() == pytest.approx([5, 6.5])
    assert stds(ratings).to_numpy() == pytest.approx([1.7, 1.7])
    assert any("maximum entropy" in note for note in ratings.notes)
    assert any("1.70 is taken, the setting rater_std" in note for note in ratings.notes)


def test_a_mean_without_std_gets_the_pooled_std_of_the_other_photos(read):
    ratings = read("photo,mean,std,count\na,5,1,30\nb,5,2,10\nc,5,,20\n")
    assert stds(ratings)["c"] == pytest.approx(np.sqrt((30 * 1 + 10 * 4) / 40))
    assert any("pooled" in note for note in ratings.notes)


def test_a_photo_and_a_score_per_row_are_means_if_no_photo_repeats(read):
    ratings = read("photo,score\na,5\nb,6.5\n")
    assert ratings.schema == "means"
    assert means(ratings).to_dict() == pytest.approx({"a": 5, "b": 6.5})


def test_the_setting_rating_format_overrides_the_recognised_form(read):
    ratings = read("photo,score\na,5\nb,6\n", rating_format="ratings")
    assert votes(ratings, "a") == shares(p5=1)


def test_an_impossible_std_is_replaced_by_the_nearest_possible_std(read):
    ratings = read("photo,mean,std\na,5.5,9\nb,5.5,0\n")
    assert votes(ratings, "a") == shares(p1=0.5, p10=0.5)
    assert votes(ratings, "b") == shares(p5=0.5, p6=0.5)
    assert any("2 standard deviations are impossible" in note for note in ratings.notes)


def test_a_mean_near_one_end_of_the_scale_gets_no_votes_at_the_other_end(read):
    ratings = read("photo,mean\na,9.9\nb,1.1\nc,10\n")
    assert means(ratings).to_numpy() == pytest.approx([9.9, 1.1, 10], abs=1e-6)
    assert votes(ratings, "a")[0] < 1e-6
    assert votes(ratings, "b")[-1] < 1e-6
    assert any("3 of these means lie too near 1 or 10" in note for note in ratings.notes)


def test_a_photo_without_a_mean_is_excluded(read):
    ratings = read("photo,mean,std\na,,1\nb,5,1\n")
    assert reasons(ratings) == {"a": "no rating"}
    assert ratings.table.index.tolist() == ["b"]


# --- Maximum entropy


@st.composite
def moments(draw):
    mean = draw(st.floats(1, 10))
    lowest_std, highest_std = (float(std[0]) for std in maximum_entropy.possible_stds(np.array([mean])))
    return mean, lowest_std + draw(st.floats(0, 1)) * (highest_std - lowest_std)


@pytest.mark.slow
@few
@given(st.lists(moments(), min_size=1, max_size=20))
def test_maximum_entropy_votes_have_the_given_mean_and_std(pairs):
    given_means, given_stds = np.array(pairs).T
    votes = maximum_entropy.from_means_and_stds(given_means, given_stds)
    assert (votes >= 0).all()
    assert votes.sum(axis=1) == pytest.approx(1, abs=1e-9)
    assert votes @ SCORES == pytest.approx(given_means, abs=1e-7)
    variances = (votes * (np.array(SCORES) - given_means[:, None]) ** 2).sum(axis=1)
    assert variances == pytest.approx(given_stds**2, abs=1e-7)


@pytest.mark.slow
@few
@given(st.lists(st.floats(1, 10), min_size=1, max_size=20))
def test_maximum_entropy_votes_without_a_given_std_have_the_given_mean(wanted):
    votes = maximum_entropy.from_means(np.array(wanted))
    assert votes.sum(axis=1) == pytest.approx(1, abs=1e-9)
    assert votes @ SCORES == pytest.approx(wanted, abs=1e-6)


@pytest.mark.slow
@few
@given(st.floats(1.5, 9.5), st.floats(0.01, 0.99))
def test_maximum_entropy_votes_have_a_quadratic_logarithm(mean, share):
    # Among votes with these moments, a quadratic logarithm is sufficient for maximum entropy: its gradient is 0 there.
    lowest_variance, highest_variance = (float(std[0]) ** 2 for std in maximum_entropy.possible_stds(np.array([mean])))
    std = np.sqrt(lowest_variance + share * (highest_variance - lowest_variance))
    log_votes = np.log(maximum_entropy.from_means_and_stds(np.array([mean]), np.array([std]))[0])
    third_differences = np.diff(log_votes, n=3)
    assert third_differences == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
@few
@given(st.floats(1, 10), st.floats(0, 20))
def test_any_std_from_zero_gives_votes_with_the_given_mean(mean, std):
    votes = maximum_entropy.from_means_and_stds(np.array([mean]), np.array([std]))
    assert votes.sum() == pytest.approx(1)
    assert votes[0] @ SCORES == pytest.approx(mean, abs=1e-7)


# --- AVA

AVA = """1 953619 0 1 5 17 38 36 15 6 5 1 1 22 1396
2 953958 10 7 15 26 26 21 10 8 1 2 15 21 1396
3 954184 0 0 4 8 41 56 10 3 0 4 17 0 1396
4 954113 0 1 4 6 48 37 23 5 2 2 21 47 1396
"""


def test_an_ava_file_gives_the_photos_with_the_default_tags(read):
    ratings = read(AVA, "AVA.txt")
    assert ratings.schema == "ava"
    assert ratings.table.index.tolist() == ["954184", "954113"]
    assert ratings.table["raters"].tolist() == [126, 128]
    assert votes(ratings, "954184")[4] == pytest.approx(41 / 126, abs=1e-6)
    assert ratings.filtered_out == {"953619", "953958"}
    assert ratings.notes[0] == "2 of 4 photos carry one of the semantic tags 17, 47."


def test_the_setting_ava_tags_chooses_the_photos_of_ava(read):
    assert read(AVA, "AVA.txt", ava_tags=[22]).table.index.tolist() == ["953619"]
    assert len(read(AVA, "AVA.txt", ava_tags=[]).table) == 4
    with pytest.raises(ValueError, match="semantic tags 66, got none; change ava_tags"):
        read(AVA, "AVA.txt", ava_tags=[66])


def test_the_image_lists_beside_an_ava_file_give_the_splits(read, tmp_path):
    lists = tmp_path / "aesthetics_image_lists"
    lists.mkdir()
    (lists / "generic_ls_train.jpgl").write_text("954184\n953619\n")
    (lists / "generic_test.jpgl").write_text("954113\n")
    styles = tmp_path / "style_image_lists"  # lists of another experiment
    styles.mkdir()
    (styles / "train.jpgl").write_text("954113\n")
    ratings = read(AVA, "AVA.txt")
    assert ratings.table["split"].to_dict() == {"954184": "train", "954113": "test"}
    assert any("2 lists" in note for note in ratings.notes)


def test_a_photo_on_the_training_and_the_test_list_of_ava_is_a_test_photo(read, tmp_path):
    (tmp_path / "aesthetics_image_lists").mkdir()
    for name in ("a_test.jpgl", "b_train.jpgl"):
        (tmp_path / "aesthetics_image_lists" / name).write_text("954184\n")
    assert read(AVA, "AVA.txt").table["split"].to_dict() == {"954184": "test", "954113": ""}


def test_ava_ids_match_photos_in_any_folder(read):
    ratings = read(AVA, "AVA.txt").match_photos(["images/954184.jpg", "images/953619.jpg", "other/954113.JPG"])
    assert ratings.table.index.tolist() == ["images/954184.jpg", "other/954113.JPG"]
    assert "images/953619.jpg" in ratings.filtered_out


def test_an_error_in_an_ava_file_names_the_line(read):
    with pytest.raises(ValueError, match=r"AVA\.txt, line 2: expected a number in column '5', got 'x'"):
        read("1 1 0 0 0 0 9 0 0 0 0 0 17 0 1\n2 2 0 0 0 0 x 0 0 0 0 0 17 0 1\n", "AVA.txt")
    with pytest.raises(ValueError, match=r"AVA\.txt, line 2: expected 15 cells, got 16"):
        read("1 1 0 0 0 0 9 0 0 0 0 0 17 0 1\n2 2 0 0 0 0 9 0 0 0 0 0 17 0 1 5\n", "AVA.txt")


# --- idealo


def test_a_json_list_in_idealos_form_is_read(read):
    items = [{"image_id": "231893", "label": [2, 8, 19, 36, 76, 52, 16, 9, 3, 2]}, {"image_id": 7, "label": [0.1] * 10}]
    ratings = read(json.dumps(items), "labels.json")
    assert ratings.schema == "idealo"
    assert ratings.table["raters"].tolist() == [223, 1]
    assert votes(ratings, "7") == [0.1] * 10


def test_a_whole_number_stays_whole_if_another_item_lacks_the_key(read):
    items = [{"image_id": "a", "label": [1] * 10, "group": 7, "age": 31}, {"image_id": "b", "label": [1] * 10}]
    table = read(json.dumps(items), "labels.json").table
    assert table["group"].tolist() == ["7", ""]
    assert table["age"].tolist() == ["31", ""]


def test_shares_in_idealos_form_leave_the_number_of_raters_unknown(read):
    ratings = read(json.dumps([{"image_id": "a", "label": [0.1] * 10}]), "labels.json")
    assert ratings.table["raters"].tolist() == [0]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('[{"image_id": "a", "label": [1, 2]}]', "item 1: expected an image_id and a label of ten counts"),
        ('[{"image_id": "a", "label": ' + str([1] * 10) + "}, 5]", "item 2: expected an image_id and a label"),
        ('[{"label": ' + str([1] * 10) + "}]", "item 1: expected an image_id that is a text or a number, got NoneType"),
        ('[{"image_id": "a", "label": ' + str([-1] * 10) + "}]", "item 1: expected a number from 0"),
        ('[{"image_id": "a",\n "label": [}]', "line 2: expected JSON"),
        ('{"a": 1}', "expected a list of image_id and label"),
        ("[]", "expected a list of image_id and label"),
    ],
)
def test_an_error_in_a_json_file_names_the_file_and_the_item(read, content, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        read(content, "labels.json")
    assert "labels.json" in str(error.value)


# --- Encodings and delimiters


@pytest.mark.parametrize(
    "content",
    [
        "photo,rater,score\na b.jpg,x,7\n",
        "\ufeffphoto,rater,score\r\na b.jpg,x,7\r\n",
        '"photo","rater","score"\n"a b.jpg","x","7"\n',
        "photo\trater\tscore\na b.jpg\tx\t7\n",
        "photo;rater;score\na b.jpg;x;7,0\n",
        "\n,photo,rater,score\n\n0, a b.jpg ,x,7\n\n,,,\n",
        gzip.compress(b"photo,rater,score\na b.jpg,x,7\n"),
    ],
    ids=["plain", "BOM and CRLF", "quoted", "tabs", "semicolons", "index, blanks and blank lines", "gzip"],
)
def test_a_table_is_read_in_any_common_encoding_and_layout(read, content):
    ratings = read(content, "ratings.csv.gz")
    assert votes(ratings, "a b.jpg") == shares(p7=1)


def test_ids_that_look_like_numbers_stay_text(read):
    assert read("photo,rater,score\n007,x,7\n").table.index.tolist() == ["007"]


def test_a_delimiter_inside_quotes_does_not_split_the_cell(read):
    assert read('photo,rater,score\n"a,b.jpg","x, y",7\n').table.index.tolist() == ["a,b.jpg"]


# --- Files that cannot be read


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", r"ratings\.csv: expected a table, got an empty file"),
        ("photo,rater,score\n", r"ratings\.csv: expected rows below the header, got none"),
        ("a.jpg,x,7\nb.jpg,x,8\n", r"line 1: expected a header with a photo .*; got \['•••\.jpg', 'x', '7'\]; rename"),
        ("photo,colour\na,red\n", r"line 1: expected a header with a photo .* got \['photo', 'colour'\]"),
        ("photo,photo,score\na,b,1\n", "line 1: expected distinct column names, got 'photo' twice"),
        ("photo,rater,score\na,x,7\nb,x,seven\n", "line 3: expected a number in column 'score', got 'seven'"),
        ("photo,rater,score\na,x,7\n\nb,x,nan\n", "line 4: expected a number in column 'score', got 'nan'"),
        ('photo,rater,score\n"a\nb",x,7\nb,x,inf\n', "line 4: expected a number in column 'score', got 'inf'"),
        ("photo,rater,score\n,x,7\n", "line 2: expected a photo in column 'photo', got an empty cell"),
        ("photo,rater,score\na,x,7\nb,x,7,7\n", "line 3: expected 3 cells, got 4"),
        ("photo,rater,score\na,x,7,7\n", "line 2: expected 3 cells, got more"),
        ('photo,rater,score\na,x,7\nb,"x,7\n', "line 3: expected a quoted cell to end"),
        (b"photo,rater,score\na,x,7\n\xe9,x,7\n", "line 3: expected UTF-8 text, got the byte 0xe9; save the file"),
        (f"photo,{TEN}\na,1,2,3,4,5,6,7,8,9,-1\n", "line 2: expected a number from 0 in column '10', got -1"),
        ("photo,mean,std\na,5,-1\n", "line 2: expected a number from 0 in column 'std', got -1"),
        (
            "photo,mean\na,5\nb,5\na,6\n",
            r"line 4: expected one row for a photo, .* of ratings\.csv line 2",
        ),
        ("photo,mean,split\na,5,dev\n", "line 2: expected train, validation or test in column 'split', got 'dev'"),
        (
            "photo,rater,score,group\na,x,5,g\na,y,5,h\n",
            r"line 3: expected one group for a photo, got another one than in ratings\.csv line 2",
        ),
        (
            "photo,rater,score,split\na,x,5,test\na,y,5,train\n",
            r"line 3: expected one split for a photo, got another one than in ratings\.csv line 2",
        ),
    ],
)
def test_an_error_in_a_table_names_the_file_and_the_line(read, content, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        read(content)
    assert "ratings.csv" in str(error.value)


@pytest.mark.parametrize(
    ("form", "complaint"),
    [
        ("ratings", r"line 1: expected a column with a score \(called score, rating, vote\), got"),
        ("counts", "line 1: expected a column with vote counts"),
        ("wide", "line 1: expected a column with one rater's scores"),
        ("means", "line 1: expected a column with a mean"),
        ("ava", "line 1: expected 15 cells parted by blanks"),
        ("idealo", "line 1: expected JSON"),
    ],
)
def test_a_rating_format_that_does_not_fit_the_file_is_refused(read, form, complaint):
    with pytest.raises(ValueError, match=complaint):
        read("photo,colour\na,red\n", rating_format=form)


def test_an_error_for_a_missing_file_names_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.csv"):
        read_ratings(str(tmp_path / "nothing.csv"), DEFAULTS)


# --- Excluded photos


def test_a_photo_with_a_score_out_of_range_is_excluded_and_the_line_is_named(read):
    ratings = read("photo,rater,score\na,x,5\nb,x,5\nb,y,11\nb,z,0\n")
    assert [(exclusion.photo, exclusion.reason, exclusion.detail) for exclusion in ratings.left_out] == [
        ("b", "score out of range", "ratings.csv line 4: 11")
    ]
    assert ratings.table.index.tolist() == ["a"]
    assert ratings.single_ratings["photo"].tolist() == ["a"]


def test_a_photo_with_a_mean_out_of_range_is_excluded(read):
    ratings = read("photo,mean\na,0.5\nb,5\n")
    assert reasons(ratings) == {"a": "score out of range"}


@pytest.mark.parametrize("photo", ["/etc/a.jpg", "../a.jpg", "b/../../a.jpg", r"..\a.jpg", r"C:\a.jpg", "gs://b/a.jpg"])
def test_a_path_outside_the_folder_is_excluded(read, photo):
    ratings = read(f"photo,rater,score\n{photo},x,5\nb.jpg,x,5\n").match_photos(["b.jpg", "a.jpg"])
    assert set(reasons(ratings).values()) == {"path outside the folder"}
    assert ratings.left_out[0].detail == "ratings.csv line 2"
    assert ratings.table.index.tolist() == ["b.jpg"]


@pytest.mark.parametrize("photo", ["b/../a.jpg", "./a.jpg", "b//../a.jpg"])
def test_a_path_with_dots_inside_the_folder_is_normalised(read, photo):
    assert read(f"photo,rater,score\n{photo},x,5\n").table.index.tolist() == ["a.jpg"]


def test_a_photo_with_too_few_raters_is_excluded(read):
    ratings = read("photo,rater,score\na,x,5\na,y,5\nb,x,5\n", minimum_raters=2)
    assert [(exclusion.photo, exclusion.reason, exclusion.detail) for exclusion in ratings.left_out] == [
        ("b", "too few raters", "1 where at least 2 are asked for")
    ]


# --- Splits, groups, attributes


def test_columns_of_split_group_and_attributes_are_read(read):
    ratings = read("photo,rater,score,Split,group,job\na,x,5,Val,g1,tutor\na,y,6,,g1,tutor\nb,x,5,test,,\n")
    assert ratings.table[["split", "group", "job"]].to_numpy().tolist() == [
        ["validation", "g1", "tutor"],
        ["test"] + [""] * 2,
    ]
    assert ratings.attributes == ("job",)


def test_a_column_that_differs_between_a_photos_rows_is_not_an_attribute(read):
    rows = "".join(f"p{n},x,5,{n},same\np{n},y,5,{n + 0.5},same\n" for n in range(3))
    ratings = read("photo,rater,score,time,place\n" + rows)
    assert ratings.attributes == ("place",)
    assert any("'time' differs between a photo's rows" in note for note in ratings.notes)


def test_a_column_with_more_than_100_values_is_not_an_attribute(read):
    ratings = read("photo,mean,url\n" + "".join(f"p{n},5,u{n}\n" for n in range(101)))
    assert ratings.attributes == ()
    assert any("'url' has 101 different values" in note for note in ratings.notes)


def test_attributes_are_read_from_a_separate_file(tmp_path):
    path = tmp_path / "attributes.csv"
    path.write_text("photo,gender,age,group,split\na.jpg,f,07,u1,train\nb.jpg,,,,\n../c.jpg,f,1,u1,\n")
    table = read_attributes(str(path))
    assert table.to_dict("index") == {
        "a.jpg": {"gender": "f", "age": "07", "group": "u1", "split": "train"},
        "b.jpg": {"gender": "", "age": "", "group": "", "split": ""},
        "../c.jpg": {"gender": "f", "age": "1", "group": "u1", "split": ""},
    }


def test_an_attributes_column_with_more_than_100_values_is_skipped_with_a_note(tmp_path):
    path = tmp_path / "attributes.csv"
    path.write_text("photo,job,email\n" + "".join(f"{n}.jpg,tutor,{n}@x\n" for n in range(101)))
    table = read_attributes(str(path))
    assert list(table.columns) == ["job"]
    assert "'email' has 101 different values" in table.attrs["notes"][0]


def test_contradictory_attributes_are_refused_with_both_lines(tmp_path):
    path = tmp_path / "attributes.csv"
    path.write_text("photo,gender\na,f\na,m\n")
    with pytest.raises(
        ValueError,
        match=r"attributes\.csv, line 3: expected one gender for a photo, got another one than in .* line 2",
    ):
        read_attributes(str(path))


# --- Matching of ratings to photos


def test_names_match_photos_by_path_by_file_name_and_without_suffix():
    names = photo_ids_by_name(["a/1.jpg", "b/1.jpg", "b/2.png", "3.jpg"])
    assert names["a/1.jpg"] == "a/1.jpg"
    assert names["a/1"] == "a/1.jpg"
    assert names["2.png"] == names["2"] == names["b/2"] == "b/2.png"
    assert names["1"] == names["1.jpg"] == ""
    assert names["3"] == "3.jpg"
    assert "c/3.jpg" not in names


def test_a_full_path_is_never_ambiguous():
    assert photo_ids_by_name(["1.jpg", "a/1.jpg"])["1.jpg"] == "1.jpg"


def test_ratings_without_a_matching_photo_are_excluded(read):
    ratings = read("photo,rater,score\n1,x,5\na/1.jpg,x,6\nnope,x,7\na/1,x,8\n").match_photos(["a/1.jpg", "b/1.jpg"])
    assert ratings.table.index.tolist() == ["a/1.jpg"]
    assert {exclusion.photo: exclusion.detail for exclusion in ratings.left_out} == {
        "1": "several photos are called so: give their paths",
        "nope": "no photo is called so",
        "a/1": "its photo is already rated as a/1.jpg",
    }
    assert set(reasons(ratings).values()) == {"no photo"}
    assert ratings.single_ratings["score"].tolist() == [6]


def test_names_in_composed_and_decomposed_unicode_match(read):
    decomposed = "ma\u0303e.jpg"
    ratings = read("photo,rater,score\nm\u00e3e.jpg,x,5\n").match_photos([decomposed])
    assert ratings.table.index.tolist() == [decomposed]
    assert ratings.single_ratings["photo"].tolist() == [decomposed]


photos = st.text("ab1.", min_size=1, max_size=4).filter(lambda name: set(name) != {"."})


@pytest.mark.slow
@few
@given(st.lists(st.tuples(photos, st.sampled_from("xyz"), st.integers(1, 10)), min_size=1, max_size=30))
def test_votes_sum_to_one_and_keep_every_photos_mean(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("ratings") / "ratings.csv"
    frame = pd.DataFrame(rows, columns=["photo", "rater", "score"])
    frame.to_csv(path, index=False)
    ratings = read_ratings(str(path), replace(DEFAULTS, rating_format="ratings"))
    assert ratings.table[list(VOTE_COLUMNS)].sum(axis=1).to_numpy() == pytest.approx(1)
    expected = frame.drop_duplicates(["photo", "rater"], keep="last").groupby("photo")["score"].mean()
    assert means(ratings).sort_index().to_dict() == pytest.approx(expected.to_dict())


# --- At size


@pytest.mark.slow
def test_reading_time_grows_at_most_linearly_with_the_rows(tmp_path):
    def seconds(rows: int) -> float:
        rng = np.random.default_rng(rows)
        path = tmp_path / f"{rows}.csv"
        pd.DataFrame(
            {
                "photo": rng.integers(0, rows // 20, rows),
                "rater": rng.integers(0, 500, rows),
                "score": rng.integers(1, 11, rows),
            }
        ).to_csv(path, index=False)
        fastest = 1e9
        for _ in range(3):
            start = process_time()
            read_ratings(str(path), DEFAULTS)
            fastest = min(fastest, process_time() - start)
        return fastest

    assert seconds(160_000) < 4 * 2 * seconds(40_000) + 0.1


@pytest.mark.slow
def test_excluding_photos_takes_time_linear_in_their_number(tmp_path):
    def seconds(photo_count: int) -> float:
        path = tmp_path / f"{photo_count}.csv"
        path.write_text("photo,mean\n" + "".join(f"{photo},50\n" for photo in range(photo_count)))
        start = process_time()
        assert len(read_ratings(str(path), replace(DEFAULTS, rating_scale="1-10")).left_out) == photo_count
        return process_time() - start

    assert seconds(20_000) < 10 * 3 * seconds(2_000) + 0.2


def test_the_mebeauty_ratings_give_the_means_and_counts_of_their_table(portraits):
    path = portraits / "data" / "mebeauty" / "ratings.csv"
    ratings = read_ratings(str(path), DEFAULTS)
    expected = pd.read_csv(path).groupby("photo")["score"].agg(["mean", "size"])
    assert means(ratings).sort_index().to_numpy() == pytest.approx(expected["mean"].to_numpy())
    assert ratings.table["raters"].sort_index().tolist() == expected["size"].tolist()


def test_the_default_rater_std_is_the_pooled_std_of_the_mebeauty_ratings(portraits):
    scores = pd.read_csv(portraits / "data" / "mebeauty" / "ratings.csv").groupby("photo")["score"]
    pooled = np.sqrt(np.average(scores.var(ddof=0), weights=scores.size()))
    assert DEFAULTS.rater_std == pytest.approx(pooled, abs=0.05)
