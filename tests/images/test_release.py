"""A release: refusals before anything is built, and digests in files. A push itself needs a container engine."""

from pathlib import Path

import pytest

from images import digests, release
from tests.builders.git_trees import git

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make a repository with one committed file and one ignored file."""
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("1")
    (tmp_path / ".gitignore").write_text("build/\n")
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "left").write_text("1")
    git(tmp_path, "add", "."), git(tmp_path, "commit", "-m", "first")
    return tmp_path


def test_a_clean_tree_has_its_revision(tree):
    assert git(tree, "rev-parse", "HEAD").startswith(release.clean_revision(tree))
    assert len(release.clean_revision(tree)) == 12


@pytest.mark.parametrize("change", ["code.py", "new.py"])
def test_a_changed_tree_is_refused_and_the_file_named(change, tree):
    (tree / change).write_text("2")
    with pytest.raises(ValueError, match=f"the tree differs from the revision .* in {change}: commit or remove that"):
        release.clean_revision(tree)


def test_of_many_changed_files_five_are_named(tree):
    for number in range(8):
        (tree / f"{number}.py").touch()
    with pytest.raises(ValueError, match=r"in 0.py, 1.py, 2.py, 3.py, 4.py and 3 more: commit"):
        release.clean_revision(tree)


def test_a_folder_without_a_repository_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a git repository with a commit"):
        release.clean_revision(tmp_path)


@pytest.mark.parametrize(
    "prefix", ["europe-west4-docker.pkg.dev/project/portraits", "localhost:5000/a", "ghcr.io/a_b/c"]
)
def test_a_registry_with_a_path_is_a_valid_prefix(prefix):
    release.check_prefix(prefix)


@pytest.mark.parametrize("prefix", ["", "portraits", "https://ghcr.io/me", "ghcr.io/Me", "ghcr.io/me/", "ghcr.io/me:1"])
def test_an_invalid_prefix_is_refused_before_anything_is_built(prefix, capsys):
    assert release.main([prefix, "--version", "1", "--check"]) == 2
    assert "PUSH: expected a registry and a place in it" in capsys.readouterr().err


def test_digests_are_written_with_tags_as_comments_and_read_back():
    pushed = {name: (f"reg/{name.lower()}@{DIGEST}", f"0.1.0-{name}") for name in release.IMAGES}
    before = release.DIGESTS.read_text()
    text = release.with_pushed_images(before, pushed)
    values: dict = {}
    exec(text, values)
    assert {name: values[name] for name in release.IMAGES} == {name: image for name, (image, _) in pushed.items()}
    assert f'"reg/serving@{DIGEST}"  # 0.1.0-SERVING\n' in text
    assert text.count("\n") == before.count("\n")
    assert release.with_pushed_images(text, pushed) == text


def test_every_image_constant_is_pushed():
    assert {name for name in vars(digests) if name.isupper()} == set(release.IMAGES)


def test_a_missing_constant_is_refused():
    with pytest.raises(ValueError, match=r"expected one line SERVING = … in digests.py, found 0"):
        release.with_pushed_images('STEPS_CPU = "x"\n', {"SERVING": ("a", "b")})
