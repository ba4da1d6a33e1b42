"""Recognition of a table's form and scale by its cells: raters' scores, vote counts or means."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components.ingestion.ratings.ratings import VOTE_COLUMNS, Ratings, read_ratings
from components.ingestion.ratings.scales import Scale, recognise_scale
from components.scorer.parameters import from_parameters
from components.scorer.settings import SCORES, Ingestion

PHOTOS = [f"{number:03}.jpg" for number in range(60)]
TRUTH = np.random.default_rng(7).normal(5.8, 1.3, 60)


def scores(raters: int, low: int = 1, high: int = 10) -> np.ndarray:
    """Return whole scores [60, raters] on a scale: the photo's true score, the rater's bias, and noise."""
    rng = np.random.default_rng([raters, low, high])
    true_scores = TRUTH[:, None] + rng.normal(0, 0.8, raters) + rng.normal(0, 1.4, (60, raters))
    return np.clip(np.rint(low + (true_scores - 1) / 9 * (high - low)), low, high)


def noise(size: int | tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(3).uniform(0, 1, size)


def counts(given: np.ndarray, levels: range) -> np.ndarray:
    return np.stack([(given == level).sum(axis=1) for level in levels], axis=1)


def table(columns: dict[str, object]) -> pd.DataFrame:
    return pd.DataFrame({"photo": PHOTOS, **columns})


def numbered(cells: np.ndarray, prefix: str, first: int = 1) -> dict[str, np.ndarray]:
    return {f"{prefix}{number}": column for number, column in enumerate(cells.T, first)}


@pytest.fixture
def read(tmp_path: Path):
    """Write a table and read it as ratings."""

    def write_and_read(content: pd.DataFrame | str, **settings: object) -> Ratings:
        path = tmp_path / "ratings.csv"
        path.write_text(content if isinstance(content, str) else content.to_csv(index=False))
        return read_ratings(str(path), from_parameters(Ingestion, **settings))

    return write_and_read


def means(ratings: Ratings) -> np.ndarray:
    return (ratings.table[list(VOTE_COLUMNS)] @ np.array(SCORES)).reindex(PHOTOS).to_numpy()


def whole(cells: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(cells).astype("Int64")


# --- One column per rater


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["rater", "q", "", "Rater ", "participant_"])
@pytest.mark.parametrize("raters", [5, 10, 25])
@pytest.mark.parametrize("mean", ["", "mean", "score"])
def test_one_column_per_rater_keeps_every_photos_mean(read, prefix, raters, mean):
    rater_scores = scores(raters)
    columns = numbered(whole(rater_scores).to_numpy(), prefix) | (
        {mean: rater_scores.mean(axis=1).round(2)} if mean else {}
    )
    ratings = read(table(columns))
    assert ratings.schema == "wide"
    assert means(ratings) == pytest.approx(rater_scores.mean(axis=1))
    assert ratings.table["raters"].tolist() == [raters] * 60
    assert ratings.single_ratings["rater"].nunique() == raters
    assert ratings.attributes == ()


@pytest.mark.slow
@pytest.mark.parametrize("raters", [10, 363])
def test_raters_need_not_have_rated_every_photo(read, raters):
    rater_scores = scores(raters)
    rater_scores[noise(rater_scores.shape) < 0.6] = np.nan
    ratings = read(table(numbered(whole(rater_scores).to_numpy(), "rater")))
    assert ratings.schema == "wide"
    assert means(ratings) == pytest.approx(np.nanmean(rater_scores, axis=1))
    assert ratings.table["raters"].tolist() == (~np.isnan(rater_scores)).sum(axis=1).tolist()


@pytest.mark.parametrize("mean", [True, False])
def test_raters_may_have_any_names_beside_columns_of_attributes(read, mean):
    rater_scores = scores(4)
    columns = {"gender": ["f", "m"] * 30, "age": (18 + 40 * noise(60)).astype(int)}
    columns |= dict(zip(["anna", "bob", "A2XJK9", "Carla L."], rater_scores.T, strict=True))
    ratings = read(table(columns | ({"mean": rater_scores.mean(axis=1)} if mean else {})))
    assert ratings.schema == "wide"
    assert means(ratings) == pytest.approx(rater_scores.mean(axis=1))
    assert ratings.attributes == ("gender", "age")


def test_a_photo_without_a_score_in_a_wide_table_is_excluded(read):
    ratings = read("photo,rater1,rater2\na,,\nb,3,4\n")
    assert [(exclusion.photo, exclusion.reason, exclusion.detail) for exclusion in ratings.left_out] == [
        ("a", "no rating", "ratings.csv line 2: no score")
    ]


@pytest.mark.slow
def test_the_mebeauty_ratings_give_the_same_votes_as_rows_and_as_one_column_per_rater(portraits, read):
    path = portraits / "data" / "mebeauty" / "ratings.csv"
    rows = pd.read_csv(path)
    wide_table = rows.pivot_table(index="photo", columns="rater", values="score").astype("Int64")
    assert wide_table.shape == (1989, 360)
    for named in (True, False):
        columns = wide_table.columns if named else range(1, 361)
        wide_ratings = read(
            wide_table.set_axis(columns, axis=1).assign(mean=wide_table.mean(axis=1).round(2)).reset_index()
        )
        row_ratings = read_ratings(str(path), Ingestion())
        assert wide_ratings.schema == "wide"
        assert (
            np.abs(
                (
                    wide_ratings.table[[*VOTE_COLUMNS, "raters"]] - row_ratings.table[[*VOTE_COLUMNS, "raters"]]
                ).to_numpy()
            ).max()
            < 1e-12
        )


@pytest.mark.slow
def test_ten_columns_of_raters_are_distinguished_from_ten_vote_counts(portraits, read):
    rows = pd.read_csv(portraits / "data" / "mebeauty" / "ratings.csv")
    busiest = rows["rater"].value_counts().index[:10]
    wide_table = rows[rows["rater"].isin(busiest)].pivot_table(index="photo", columns="rater", values="score")
    complete_rows = wide_table.dropna().astype(int).set_axis(range(1, 11), axis=1)
    vote_counts = rows.groupby("photo")["score"].value_counts().unstack(fill_value=0)
    assert read(complete_rows.reset_index()).schema == "wide"
    assert read(wide_table.astype("Int64").set_axis(range(1, 11), axis=1).reset_index()).schema == "wide"
    assert read(vote_counts.reset_index()).schema == "counts"


# --- Vote counts


@pytest.mark.parametrize("raters", [3, 20, 200])
@pytest.mark.parametrize("levels", [range(1, 11), range(11), range(1, 6), range(1, 8)])
@pytest.mark.parametrize("mean", [True, False])
def test_counts_on_any_scale_keep_every_photos_mean(read, raters, levels, mean):
    rater_scores = scores(raters, levels[0], levels[-1])
    columns = numbered(counts(rater_scores, levels), "c", levels[0]) | (
        {"MOS": rater_scores.mean(axis=1).round(3)} if mean else {}
    )
    ratings = read(table(columns))
    assert ratings.schema == "counts"
    width = levels[-1] - levels[0]
    assert means(ratings) == pytest.approx(1 + 9 * (rater_scores.mean(axis=1) - levels[0]) / width)
    assert ratings.table["raters"].tolist() == [raters] * 60
    assert any(f"scores {levels[0]} to {levels[-1]}." in note for note in ratings.notes)


def test_a_vote_between_two_whole_scores_is_split_between_them(read):
    ratings = read("photo,c1,c2,c3,c4,c5\na,0,4,0,0,0\nb,1,0,0,0,1\n")
    assert ratings.table.loc["a", list(VOTE_COLUMNS)].tolist() == [0, 0, 0.75, 0.25, 0, 0, 0, 0, 0, 0]
    assert ratings.table.loc["b", list(VOTE_COLUMNS)].tolist() == [0.5, 0, 0, 0, 0, 0, 0, 0, 0, 0.5]
    assert any("counts as one for 1 + 9 (s - 1) / 4 of 1-10" in note for note in ratings.notes)


def test_counts_for_0_to_10_lose_no_vote(read):
    ratings = read("photo," + ",".join(map(str, range(11))) + "\na,5,0,0,0,0,0,0,0,0,0,5\n")
    assert ratings.table.loc["a", list(VOTE_COLUMNS)].tolist() == [0.5, *[0] * 8, 0.5]
    assert ratings.table["raters"].tolist() == [10]


def test_a_table_in_koniqs_form_gives_votes_and_no_attribute(read):
    rater_scores = scores(105, 1, 5)
    columns = numbered(counts(rater_scores, range(1, 6)), "c")
    columns |= {
        "c_total": 105,
        "MOS": rater_scores.mean(axis=1),
        "SD": rater_scores.std(axis=1),
        "MOS_zscore": 20 * TRUTH - 40,
    }
    ratings = read(table(columns))
    assert ratings.schema == "counts"
    assert ratings.attributes == ()
    assert means(ratings) == pytest.approx(1 + 9 * (rater_scores.mean(axis=1) - 1) / 4)
    assert any("'MOS_zscore' tells of the ratings" in note for note in ratings.notes)


def test_shares_in_per_cent_leave_the_number_of_raters_unknown(read):
    percentages = counts(scores(7), range(1, 11)) / 7 * 100
    ratings = read(table(numbered(percentages.round(2), "p")))
    assert ratings.schema == "counts"
    assert ratings.table["raters"].tolist() == [0] * 60


# --- Ambiguous and contradictory tables


def test_ten_columns_that_fit_both_counts_and_raters_are_refused_with_the_setting_to_use(read):
    content = "photo,1,2,3,4,5,6,7,8,9,10\na,1,2,5,3,4,6,5,4,3,2\nb,2,3,4,5,6,5,4,3,2,1\n"
    with pytest.raises(ValueError, match=r"which they leave open; set rating_format to counts or to wide"):
        read(content)
    assert read(content, rating_format="wide").table["raters"].tolist() == [10, 10]
    assert read(content, rating_format="counts").table["raters"].tolist() == [35, 35]


def test_an_empty_cell_among_counts_is_refused(read):
    content = "photo,1,2,3,4,5,6,7,8,9,10\na,0,0,3,4,5,6,7,8,9,\n"
    with pytest.raises(ValueError, match=r"leave open .*many cells are 0; .*some cells are empty"):
        read(content)
    with pytest.raises(ValueError, match="line 2: expected a vote count in column '10', got an empty cell; write 0"):
        read(content, rating_format="counts")


@pytest.mark.parametrize("form", ["auto", "counts"])
def test_counts_that_contradict_the_mean_column_are_refused(read, form):
    rater_scores = scores(20)
    columns = numbered(counts(rater_scores, range(1, 11)), "") | {"mean": rater_scores.mean(axis=1)}
    columns["mean"][4] += 1
    with pytest.raises(ValueError, match=r"line 6: expected the mean of the votes, .* \(1 of 60 photos differ so\)"):
        read(table(columns), rating_format=form)


@pytest.mark.parametrize("form", ["auto", "wide"])
def test_rater_columns_that_contradict_the_mean_column_are_refused(read, form):
    rater_scores = scores(8)
    columns = numbered(rater_scores, "rater") | {"mean": rater_scores.mean(axis=1)}
    columns["mean"][4] += 1
    with pytest.raises(ValueError, match=r"line 6: expected the mean of the votes"):
        read(table(columns), rating_format=form)


def test_rows_that_contradict_the_mean_column_are_refused(read):
    with pytest.raises(ValueError, match=r"line 4: expected the mean of the votes, 3, in column 'mean', got 8"):
        read("photo,rater,score,mean\na,x,5,6\na,y,7,6\nb,x,3,8\n")


@pytest.mark.parametrize("prefix", ["rater", "", "votes_"])
@pytest.mark.parametrize("columns", [10, 25])
def test_numbered_columns_unrelated_to_the_mean_column_are_refused(read, prefix, columns):
    if prefix == "votes_" and columns == 25:
        pytest.skip("no votes for 25 scores")
    with pytest.raises(ValueError, match="expected the column 'mean' to be the mean of the columns"):
        read(table(numbered(scores(columns), prefix) | {"mean": 1 + 9 * noise(60)}))


def test_feature_columns_beside_a_mean_leave_the_form_means(read):
    columns = numbered(noise((60, 16)) - 0.5, "f") | {"mean": TRUTH}
    assert read(table(columns)).schema == "means"


# --- Repeated rows


def test_a_repeated_row_of_means_counts_once(read):
    rows = table({"score": TRUTH.round(2)})
    repeated_rows = pd.concat([rows, rows.iloc[[3]]])
    once, twice = read(rows), read(repeated_rows)
    assert once.schema == twice.schema == "means"
    assert once.table.equals(twice.table)
    assert twice.notes[0] == "1 rows repeat another one word for word and were dropped."


def test_a_photo_with_two_means_is_refused_with_both_lines(read):
    rows = table({"score": TRUTH.round(2)})
    rows.loc[60] = ["003.jpg", 9.9]
    with pytest.raises(ValueError, match=r"line 62: expected one row for a photo, .* ratings\.csv line 5, .* keep"):
        read(rows)


@pytest.mark.slow
def test_a_repeated_row_of_counts_or_rater_columns_counts_once(read):
    for columns in (numbered(counts(scores(9), range(1, 11)), "p"), numbered(scores(9), "rater")):
        rows = table(columns)
        once, twice = read(rows), read(pd.concat([rows, rows.iloc[[3, 4]]]))
        assert once.table.equals(twice.table)
        assert twice.notes[0].startswith("2 rows repeat")


def test_line_numbers_are_those_of_the_file_below_a_dropped_row_with_a_line_break(read):
    with pytest.raises(ValueError, match=r"line 6: expected one row for a photo"):
        read('photo,mean,note\na,5,"x\ny"\na,5,"x\ny"\na,6,z\n')


# --- Scales


@pytest.mark.parametrize(
    ("scale", "low", "high"), [("1-5", 1, 5), ("1-7", 1, 7), ("1-10", 1, 10), ("0-10", 0, 10), ("0-100", 0, 100)]
)
@pytest.mark.parametrize("form", ["rows", "wide"])
def test_the_scale_of_single_scores_is_recognised_and_noted(read, form, scale, low, high):
    rater_scores = scores(8, low, high)
    if low == 0:
        rater_scores[:3, :2] = 0
    content = table(numbered(rater_scores, "rater"))
    if form == "rows":
        content = content.melt("photo", var_name="rater", value_name="score")
    ratings = read(content)
    assert means(ratings) == pytest.approx(1 + 9 * (rater_scores.mean(axis=1) - low) / (high - low))
    assert any(
        f"read on the scale {scale}, which is what they look like; set rating_scale" in note for note in ratings.notes
    )


@pytest.mark.parametrize(("scale", "low", "high"), [("1-5", 1, 5), ("1-10", 1, 10), ("0-100", 0, 100), ("0-1", 0, 1)])
def test_means_and_stds_are_rescaled_to_1_to_10(read, scale, low, high):
    given_means, given_stds = low + (TRUTH - 1) / 9 * (high - low), np.full(60, 1.5 / 9 * (high - low))
    ratings = read(table({"mos": given_means, "std": given_stds}))
    assert means(ratings) == pytest.approx(TRUTH)
    squares = ratings.table[list(VOTE_COLUMNS)] @ np.square(SCORES)
    assert np.sqrt(squares.to_numpy() - means(ratings) ** 2) == pytest.approx(np.full(60, 1.5))
    assert any(f"on the scale {scale}," in note for note in ratings.notes)


def test_the_setting_rating_scale_overrides_the_recognised_scale(read):
    content = table({"score": np.tile([1.0, 3, 5], 20)})
    assert means(read(content))[:3] == pytest.approx([1, 5.5, 10])
    assert means(read(content, rating_scale="1-10"))[:3] == pytest.approx([1, 3, 5])
    assert means(read(content, rating_scale="1-9"))[:3] == pytest.approx([1, 3.25, 5.5])


def test_scores_outside_rating_scale_are_excluded_with_their_line(read):
    ratings = read("photo,rater,score\na,x,5\nb,x,7\n", rating_scale="1-5")
    assert [(exclusion.photo, exclusion.reason, exclusion.detail) for exclusion in ratings.left_out] == [
        ("b", "score out of range", "ratings.csv line 3: 7")
    ]


def test_a_rating_scale_that_contradicts_the_columns_is_refused(read):
    with pytest.raises(ValueError, match="for the scores 0-10, as rating_scale says, got votes for 1 to 5"):
        read(table(numbered(counts(scores(9, 1, 5), range(1, 6)), "c")), rating_scale="0-10")


def test_means_on_no_usual_scale_are_refused_with_the_setting_to_use(read):
    content = table({"mean": noise(60) - 0.5})
    with pytest.raises(ValueError, match=r"expected means on a usual scale .* set rating_scale to the lowest and"):
        read(content)


@pytest.mark.parametrize("stray", [0, 11, 55, -1])
def test_one_stray_score_does_not_change_the_scale(stray):
    rater_scores = np.append(scores(8).ravel(), stray)
    assert recognise_scale(rater_scores, True) == Scale(1, 10)


def test_few_scores_are_read_on_the_scale_1_to_10():
    assert recognise_scale(np.array([1.0, 2, 5]), True) == Scale(1, 10)


# --- Delimiters, rater columns and the length of errors


@pytest.mark.parametrize("first", ["sep=;\n", "sep=;\r\n", "\ufeffsep=;\n", '"sep=;"\n', "SEP=;;;\n"])
def test_excels_sep_line_sets_the_delimiter(read, first):
    ratings = read(f"{first}photo;rater;score\na;x, y;7,5\nb;x, y;3\n")
    assert ratings.table.index.tolist() == ["a", "b"]
    assert ratings.single_ratings["score"].tolist() == [7.5, 3]
    with pytest.raises(ValueError, match="line 4: expected a number in column 'score', got 'three'"):
        read(f"{first}photo;rater;score\na;x, y;7,5\nb;x, y;three\n")


@pytest.mark.parametrize(
    "column", ["userId", "WorkerId", "participant", "Participant ID", "worker_id", "annotatorID", "user name", "RATER"]
)
def test_the_rater_column_is_recognised_by_many_names(read, column):
    ratings = read(f"imageId,{column},score\na,x,2\na,y,5\na,x,9\n")
    assert ratings.single_ratings.to_dict("list") == {"photo": ["a", "a"], "rater": ["y", "x"], "score": [5, 9]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        ",".join(f"column {number}" * 10 for number in range(500)) + "\n" + "," * 499 + "x\n",
        f"photo,rater,score\na,x,{'7' * 45_000}x\n",
        f"photo,{'score' * 9000}\na,7\n",
        f"photo,mean,{'x' * 45_000},{'x' * 45_000}\na,7,1,1\n",
        f"photo,rater,score,split\na,x,7,{'test' * 9000}\n",
        f"photo,rater,score,group\na,x,7,{'a' * 45_000}\na,y,7,{'b' * 45_000}\n",
        '[{"image_id": ' + f'["{"x" * 45_000}"], "label": {[1] * 10}' + "}]",
        '{"a": "' + "x" * 45_000 + '"}',
    ],
)
def test_an_error_stays_short_if_cells_are_long(read, content):
    with pytest.raises(ValueError, match="expected") as error:
        read(content)
    assert len(str(error.value)) < 1500
