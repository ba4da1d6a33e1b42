"""The embedded sample: reproducible by seed, with a consistent truth, and files that ingestion reads or refuses."""

import csv
import hashlib
from collections import Counter, defaultdict
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageOps, ImageStat
from scipy.stats import spearmanr, ttest_ind

from components.ingestion.sample import Portrait, draw_portrait, draw_sample, latent_quality, random_portrait
from components.ingestion.sample.folder import RATER_COUNT, RATINGS_PER_PHOTO, SIDE
from components.ingestion.sample.portrait import CHILD_EFFECT, SKIN_TONES, Eyewear, Hair, Job, Scene, Skin
from components.ingestion.sample.raters import SimulatedRaters

LABELLED, UNLABELLED = 100, 50

portraits = st.integers(0, 10**6).map(lambda seed: random_portrait(np.random.default_rng(seed)))


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return draw_sample(tmp_path_factory.mktemp("sample") / "drawn", labelled=LABELLED, unlabelled=UNLABELLED, seed=7)


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def digests(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def means(sample):
    scores = defaultdict(list)
    for row in rows(sample.ratings):
        scores[row["photo"]].append(int(row["score"]))
    return {photo: np.mean(values) for photo, values in scores.items()}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(tmp_path):
    draw_sample(tmp_path / "first", labelled=52, unlabelled=3, seed=3)
    draw_sample(tmp_path / "second", labelled=52, unlabelled=3, seed=3)
    assert digests(tmp_path / "first") == digests(tmp_path / "second")


def test_another_seed_draws_other_photos(tmp_path):
    first, second = (
        digests(draw_sample(tmp_path / str(seed), labelled=3, unlabelled=0, seed=seed).photos) for seed in (1, 2)
    )
    assert first.keys() == second.keys()
    assert not set(first.values()) & set(second.values())


@pytest.mark.slow
def test_a_larger_sample_contains_the_smaller_one(tmp_path):
    small, large = (
        draw_sample(tmp_path / "small", labelled=4, unlabelled=2),
        draw_sample(tmp_path / "large", labelled=6, unlabelled=3),
    )
    for part in ("photos", "unlabelled"):
        assert digests(getattr(small, part)).items() <= digests(getattr(large, part)).items()
    assert set(small.ratings.read_text().splitlines()) <= set(large.ratings.read_text().splitlines())


@pytest.mark.slow
def test_every_usable_photo_has_a_file_ratings_attributes_and_truth(sample):
    flawed = {"broken.jpg", "thumbnail.jpg", "unrated.jpg"}
    photos = {path.name for path in sample.photos.iterdir()}
    unlabelled = {path.name for path in sample.unlabelled.iterdir()}
    assert len(photos) == LABELLED + len(flawed)
    assert len(unlabelled) == UNLABELLED
    assert flawed <= photos
    assert {row["photo"] for row in rows(sample.attributes)} == photos - flawed
    assert {row["photo"] for row in rows(sample.truth)} == photos - flawed | unlabelled
    assert set(means(sample)) == photos - {"unrated.jpg"} | {"missing.jpg"}


@pytest.mark.slow
def test_the_sample_tables_have_the_documented_columns(sample):
    assert list(rows(sample.ratings)[0]) == ["photo", "rater", "score"]
    assert list(rows(sample.attributes)[0]) == ["photo", "job", "skin", "child", "sunglasses"]
    assert list(rows(sample.truth)[0])[:4] == ["photo", "quality", "copy_of", "skin"]


@pytest.mark.slow
def test_scores_are_whole_numbers_from_1_to_10(sample):
    assert {row["score"] for row in rows(sample.ratings)} == {str(score) for score in range(1, 11)}


@pytest.mark.slow
def test_a_photo_has_8_to_16_ratings_by_different_raters(sample):
    pairs = Counter((row["photo"], row["rater"]) for row in rows(sample.ratings))
    assert set(pairs.values()) == {1}
    numbers = set(Counter(photo for photo, _ in pairs).values())
    assert (min(numbers), max(numbers)) == RATINGS_PER_PHOTO
    assert len({rater for _, rater in pairs}) == RATER_COUNT


@pytest.mark.slow
def test_the_truth_table_reproduces_the_quality_of_every_photo(sample):
    kinds = {name: type(value) for name, value in vars(Portrait()).items()}
    for row in rows(sample.truth):
        values = {name: row[name] == "True" if kind is bool else kind(row[name]) for name, kind in kinds.items()}
        assert latent_quality(Portrait(**values)) == pytest.approx(float(row["quality"]), abs=1e-3)


@pytest.mark.slow
def test_mean_scores_follow_the_latent_quality(sample):
    mean_scores = means(sample)
    pairs = [
        (float(row["quality"]), mean_scores[row["photo"]]) for row in rows(sample.truth) if row["photo"] in mean_scores
    ]
    assert spearmanr(*zip(*pairs, strict=True))[0] > 0.9


@pytest.mark.slow
def test_two_halves_of_the_raters_agree_as_much_as_real_raters_do(sample):
    halves = defaultdict(lambda: ([], []))
    for number, row in enumerate(rows(sample.ratings)):
        if row["photo"].startswith("portrait"):
            halves[row["photo"]][number % 2].append(int(row["score"]))
    correlation = np.corrcoef(
        *zip(*((np.mean(first), np.mean(second)) for first, second in halves.values()), strict=True)
    )[0, 1]
    assert 0.85 < 2 * correlation / (1 + correlation) < 0.96  # Spearman-Brown


@pytest.mark.slow
def test_the_default_sample_shows_every_attribute_value():
    drawn_portraits = [random_portrait(np.random.default_rng([1, 3, number])) for number in range(600)]
    assert {portrait.skin_tone for portrait in drawn_portraits} == set(range(SKIN_TONES))
    assert {portrait.skin for portrait in drawn_portraits} == set(get_args(Skin))
    for name, values in {"hair": Hair, "scene": Scene, "eyewear": Eyewear}.items():
        assert {getattr(portrait, name) for portrait in drawn_portraits} == set(get_args(values))
    assert {(portrait.job, portrait.child) for portrait in drawn_portraits} == {
        (job, child) for job in get_args(Job) for child in (True, False)
    }


@pytest.mark.slow
def test_the_default_sample_shows_every_flaw_and_its_absence():
    drawn_portraits = [random_portrait(np.random.default_rng([1, 3, number])) for number in range(600)]
    flaw_counts = {
        "blurred": sum(portrait.blur > 0.5 for portrait in drawn_portraits),
        "dark": sum(portrait.exposure < -1 for portrait in drawn_portraits),
        "burnt out": sum(portrait.exposure > 0.7 for portrait in drawn_portraits),
        "tilted": sum(abs(portrait.tilt) > 15 for portrait in drawn_portraits),
        "far": sum(portrait.size < 0.28 for portrait in drawn_portraits),
        "near": sum(portrait.size > 0.6 for portrait in drawn_portraits),
        "aside": sum(abs(portrait.x - 0.5) > 0.15 for portrait in drawn_portraits),
        "sunglasses": sum(portrait.sunglasses for portrait in drawn_portraits),
    }
    assert all(15 <= number <= 375 for number in flaw_counts.values()), flaw_counts


@pytest.mark.slow
def test_no_score_is_far_more_common_than_the_others():
    qualities = [latent_quality(random_portrait(np.random.default_rng([1, 3, number]))) for number in range(600)]
    # A tenth: the share of each score if all are equally common.
    assert sum(quality in (1, 10) for quality in qualities) < 60
    assert np.std(qualities) > 1.5


@pytest.mark.slow
def test_usable_photos_are_upright_portraits_of_the_documented_size(sample):
    for row in rows(sample.truth):
        folder = sample.unlabelled if row["photo"].startswith("unlabelled") else sample.photos
        with Image.open(folder / row["photo"]) as image:
            upright = ImageOps.exif_transpose(image)
        is_near_copy = upright.width == SIDE * 3 // 4 and row["copy_of"]
        assert upright.size == (SIDE, SIDE * 5 // 4) or is_near_copy


@pytest.mark.slow
def test_sample_photos_are_jpeg_png_webp_and_jpeg_with_exif_rotation(sample):
    kinds = Counter()
    for path in sample.photos.glob("portrait-*"):
        with Image.open(path) as image:
            kinds[image.format, image.getexif().get(0x0112, 1)] += 1
    assert set(kinds) == {("JPEG", 1), ("JPEG", 6), ("PNG", 1), ("WEBP", 1)}
    assert kinds["JPEG", 1] > 0.8 * LABELLED


@pytest.mark.slow
def test_a_photo_with_exif_rotation_shows_the_portrait_upright(sample):
    upright = ImageOps.exif_transpose(Image.open(sample.photos / "portrait-0016.jpg"))
    drawn = draw_portrait(random_portrait(np.random.default_rng([7, 3, 16])), SIDE)
    assert max(ImageStat.Stat(ImageChops.difference(upright, drawn)).mean) < 4


@pytest.mark.slow
def test_copies_are_exact_or_smaller_and_the_truth_names_their_original(sample):
    copies = {row["photo"]: row["copy_of"] for row in rows(sample.truth) if row["copy_of"]}
    assert set(copies) == {"portrait-0049.jpg", "portrait-0099.jpg", "unlabelled-0049.jpg"}
    exact, near = (
        [(sample.photos / name).read_bytes() for name in (copy, copies[copy])]
        for copy in ("portrait-0049.jpg", "portrait-0099.jpg")
    )
    assert exact[0] == exact[1]
    small, large = (Image.open(BytesIO(data)) for data in near)
    assert small.width < large.width
    assert max(ImageStat.Stat(ImageChops.difference(small, large.resize(small.size))).mean) < 4


@pytest.mark.slow
def test_broken_thumbnail_and_missing_files_are_as_documented(sample):
    with pytest.raises(OSError, match="truncated"):
        Image.open(sample.photos / "broken.jpg").load()
    assert max(Image.open(sample.photos / "thumbnail.jpg").size) < 64
    assert not (sample.photos / "missing.jpg").exists()


def test_a_small_sample_has_no_flawed_files(tmp_path):
    sample = draw_sample(tmp_path / "small", labelled=3, unlabelled=0)
    assert sorted(path.suffix for path in sample.photos.iterdir()) == [".jpg"] * 3
    assert set(means(sample)) == {path.name for path in sample.photos.iterdir()}


def test_a_folder_that_is_not_empty_is_refused_and_unchanged(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="needs an empty folder"):
        draw_sample(tmp_path, labelled=1, unlabelled=0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "empty").mkdir()
    assert draw_sample(tmp_path / "empty", labelled=1, unlabelled=0).ratings.exists()


def test_an_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("components.ingestion.sample.folder._write_table", fail)
    with pytest.raises(OSError, match="no space left"):
        draw_sample(tmp_path / "sample", labelled=1, unlabelled=1)
    assert not list(tmp_path.iterdir())


def test_a_negative_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unlabelled must be 0 or more, got -1"):
        draw_sample(tmp_path / "sample", unlabelled=-1)


# Latent quality


@pytest.mark.slow
@given(portraits)
def test_latent_quality_is_a_score_from_1_to_10(portrait):
    assert 1 <= latent_quality(portrait) <= 10


@pytest.mark.slow
@given(portraits, st.floats(0, 5), st.floats(0, 5))
def test_blur_never_raises_the_quality(portrait, less, more):
    less, more = sorted((less, more))
    assert latent_quality(replace(portrait, blur=more)) <= latent_quality(replace(portrait, blur=less))


@pytest.mark.slow
@given(portraits, st.floats(0, 4), st.floats(0, 4), st.sampled_from([-1, 1]))
def test_more_wrong_exposure_never_raises_the_quality(portrait, less, more, sign):
    less, more = sorted((less, more))
    dark, darker = replace(portrait, exposure=sign * less), replace(portrait, exposure=sign * more)
    assert latent_quality(darker) <= latent_quality(dark)


@pytest.mark.slow
@given(portraits, st.floats(0, 90), st.floats(0, 90), st.sampled_from([-1, 1]))
def test_more_tilt_never_raises_the_quality(portrait, less, more, sign):
    less, more = sorted((less, more))
    assert latent_quality(replace(portrait, tilt=sign * more)) <= latent_quality(replace(portrait, tilt=sign * less))


@pytest.mark.slow
@given(portraits, st.floats(0, 0.5), st.floats(0, 0.5))
def test_moving_the_head_out_of_the_photo_never_raises_the_quality(portrait, less, more):
    without_child = replace(portrait, child=False)
    less, more = sorted((less, more))
    assert (
        latent_quality(replace(without_child, x=0.5 + more))
        <= latent_quality(replace(without_child, x=0.5 + less)) + 1e-9
    )


@given(portraits)
def test_sunglasses_never_raise_the_quality_and_glasses_do_not_matter(portrait):
    bare_quality, glasses_quality, sunglasses_quality = (
        latent_quality(replace(portrait, eyewear=kind)) for kind in get_args(Eyewear)
    )
    assert sunglasses_quality <= bare_quality == glasses_quality


@pytest.mark.slow
@given(portraits, st.floats(-1, 1), st.floats(-1, 1))
def test_a_wider_smile_never_lowers_the_quality(portrait, less, more):
    less, more = sorted((less, more))
    assert latent_quality(replace(portrait, smile=less)) <= latent_quality(replace(portrait, smile=more))


@pytest.mark.slow
@given(portraits)
def test_skin_tone_and_looks_never_matter(portrait):
    quality = latent_quality(portrait)
    assert all(latent_quality(replace(portrait, skin_tone=tone)) == quality for tone in range(SKIN_TONES))
    assert all(latent_quality(replace(portrait, hair=hair)) == quality for hair in get_args(Hair))
    assert all(latent_quality(replace(portrait, scene=scene)) == quality for scene in get_args(Scene))


@pytest.mark.parametrize("job", get_args(Job))
def test_a_child_raises_the_quality_only_for_a_child_carer(job):
    without_child = Portrait(job=job)
    child_gain = latent_quality(replace(without_child, child=True)) - latent_quality(without_child)
    assert child_gain == pytest.approx(CHILD_EFFECT[job])
    assert (child_gain > 0) == (job == "child carer")


@pytest.mark.slow
def test_raters_of_the_default_sample_score_a_child_higher_beside_a_child_carer_than_beside_a_tutor():
    """Use scores alone, as a scorer must: the preference shows in 600 photos despite the raters' noise."""
    raters, scores = SimulatedRaters(RATER_COUNT, np.random.default_rng([1, 0])), defaultdict(list)
    for number in range(600):
        portrait, rng = random_portrait(np.random.default_rng([1, 3, number])), np.random.default_rng([1, 1, number])
        rated = raters.rate(latent_quality(portrait), RATINGS_PER_PHOTO[0], rng)
        scores[portrait.job, portrait.child].append(np.mean([score for _, score in rated]))
    scores_with_child = {job: np.array(scores[job, True]) for job in ("child carer", "tutor")}
    assert min(map(len, scores_with_child.values())) >= 35
    assert (
        ttest_ind(scores_with_child["child carer"], scores_with_child["tutor"], equal_var=False)
        .confidence_interval()
        .low
        > 1.5
    )
    assert ttest_ind(scores["child carer", False], scores["tutor", False]).pvalue > 0.05


@given(portraits)
def test_without_a_child_the_job_does_not_matter(portrait):
    without_child = replace(portrait, child=False)
    assert len({latent_quality(replace(without_child, job=job)) for job in get_args(Job)}) == 1


@pytest.mark.slow
def test_flaws_do_not_depend_on_skin_tone():
    drawn_portraits = [random_portrait(np.random.default_rng([2, number])) for number in range(2000)]
    correlation, _ = spearmanr(
        [portrait.skin_tone for portrait in drawn_portraits], [latent_quality(portrait) for portrait in drawn_portraits]
    )
    assert abs(correlation) < 0.07  # three standard errors of no correlation at all


# Drawing


@settings(max_examples=15, deadline=None)
@given(portraits, st.integers(16, 200))
def test_every_portrait_is_drawn_at_every_size(portrait, side):
    image = draw_portrait(portrait, side)
    assert (image.mode, image.size) == ("RGB", (side, round(side * 1.25)))


def test_a_portrait_looks_the_same_at_another_size():
    small, large = draw_portrait(Portrait(child=True), 100), draw_portrait(Portrait(child=True), 300)
    assert max(ImageStat.Stat(ImageChops.difference(small, large.resize(small.size))).mean) < 6


def test_a_side_below_16_pixels_is_refused():
    with pytest.raises(ValueError, match="side must be at least 16 pixels, got 15"):
        draw_portrait(Portrait(), 15)


def brightness(portrait):
    return ImageStat.Stat(draw_portrait(portrait, 160).convert("L")).mean[0]


def edges(portrait):
    return np.abs(np.diff(np.asarray(draw_portrait(portrait, 160).convert("L"), float))).mean()


def test_exposure_shows_as_brightness():
    underexposed, normal, overexposed = (brightness(Portrait(exposure=stops)) for stops in (-1.5, 0, 1))
    assert underexposed + 30 < normal < overexposed - 20


def test_blur_shows_as_soft_edges():
    assert edges(Portrait(blur=2)) < 0.75 * edges(Portrait())


def test_a_darker_tone_shows_as_a_darker_face():
    # Between the eyes and the mouth, beside the nose.
    cheeks = [
        draw_portrait(Portrait(skin_tone=tone), 160).convert("L").getpixel((66, 99)) for tone in range(SKIN_TONES)
    ]
    assert all(light > dark + 4 for light, dark in pairwise(cheeks)), cheeks


@pytest.mark.parametrize(
    "change",
    [
        {"eyewear": "sunglasses"}, {"eyewear": "glasses"}, {"smile": -0.5}, {"child": True}, {"tilt": 30}, {"x": 0.8},
        {"y": 0.1}, {"size": 0.25}, {"beard": True}, {"hair": "afro"}, {"hair": "headscarf"}, {"scene": "garden"},
        {"clothes": 1}, {"neckline": "v"}, {"light": -0.5}, {"warmth": 1},
    ],
    ids=str,
)  # fmt: skip
def test_each_property_except_the_job_changes_the_drawing(change):
    difference = ImageChops.difference(
        draw_portrait(Portrait(), 160), draw_portrait(replace(Portrait(), **change), 160)
    )
    assert max(high for _, high in ImageStat.Stat(difference).extrema) > 10


def test_the_job_does_not_change_the_drawing():
    assert draw_portrait(Portrait(job="tutor"), 64).tobytes() == draw_portrait(Portrait(job="cleaner"), 64).tobytes()
