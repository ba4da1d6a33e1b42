"""The models' bucket in trouble, at every request of every operation in turn: survived, or one error and nothing half.

Busy servers (429, 503), connections reset before or after the work was done, and answers that come too late.
"""

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from components.scorer import storage
from components.scorer.artifacts import promotion
from components.scorer.registry import channels, versions
from tests.builders.versions import NAME, complete, push, serving, write
from tests.fakes import gcs

TROUBLES = (503, "reset", 429, "lost")
MOST = 6  # requests of an operation that are met with trouble: all, or as many evenly among them


def _two(models: str) -> None:
    push(models, "a"), push(models, "b")


OPERATIONS: dict[str, tuple[Callable[[str], Any], Callable[[str], Any]]] = {
    "push": (lambda models: push(models, "a"), lambda models: push(models, "b")),
    "promote": (_two, lambda models: promotion.promote(models, NAME, 1, why="better")),
    "rollback": (_two, lambda models: promotion.rollback(models, NAME, why="worse")),
    "gc": (
        lambda models: (_two(models), push(models, "c"), write(models, 9)),
        lambda models: [gone.version for gone in versions.collect_garbage(models, NAME, keep=1)],
    ),
}
"""What is there before, and what meets the trouble."""

EACH = pytest.mark.parametrize(
    ("bucket", "name"),
    [("google", "push"), ("google", "rollback"), ("google", "gc"), ("amazon", "push"), ("amazon", "promote")],
    indirect=["bucket"],
)


@pytest.fixture
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server with trouble on cue, whose clients do not pause before they ask again, and the address of a folder."""
    from google.cloud.storage import retry

    monkeypatch.setattr(promotion, "verify", complete)
    monkeypatch.setattr(retry, "DEFAULT_RETRY", retry.DEFAULT_RETRY.with_delay(initial=0.001, maximum=0.01))
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda seconds: None))
    server = request.getfixturevalue(request.param)
    return SimpleNamespace(server=server, uri={"google": "gs://bucket", "amazon": "s3://bucket"}[request.param])


def at(number: int) -> Callable[[Any], bool]:
    """Holds for this one of the requests from now on."""
    seen = itertools.count(1)
    return lambda request: next(seen) == number


def since(number: int) -> Callable[[Any], bool]:
    """Holds for this request and all after it."""
    seen = itertools.count(1)
    return lambda request: next(seen) >= number


def requests(server: Any, operation: Callable[[], Any]) -> int:
    """How many an operation makes."""
    seen = itertools.count(1)
    server.fail(lambda request: next(seen) < 0, 503)
    operation()
    server.calm()
    return next(seen) - 1


def some(count: int) -> list[int]:
    """Numbers of requests, the first and the last among them."""
    return sorted({1 + round(step * (count - 1) / (MOST - 1)) for step in range(MOST)})


def state(models: str) -> Any:
    """What the bucket says to whoever reads it: channels, whole versions, the audit without its ids and times."""
    audit = [
        {key: entry.get(key) for key in ("action", "from", "to", "removed")} for entry in channels.audit(models, NAME)
    ]
    whole = [each.version for each in versions.list_versions(models, NAME) if each.state == "complete"]
    return serving(models), whole, audit


@EACH
def test_one_trouble_at_any_request_changes_nothing_of_the_outcome(bucket: Any, name: str) -> None:
    before, operation = OPERATIONS[name]
    before(f"{bucket.uri}/calm")
    count = requests(bucket.server, lambda: operation(f"{bucket.uri}/calm"))
    expected = state(f"{bucket.uri}/calm")
    assert count > 3
    for number, trouble in zip(some(count), itertools.cycle(TROUBLES), strict=False):
        models = f"{bucket.uri}/{number}"
        before(models)
        bucket.server.fail(at(number), trouble)
        operation(models)
        bucket.server.calm()
        assert state(models) == expected, (number, trouble)


@EACH
def test_an_outage_from_any_request_on_is_one_error_and_nothing_half_and_the_next_try_ends_it(
    bucket: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, operation = OPERATIONS[name]
    before(f"{bucket.uri}/calm")
    earlier = state(f"{bucket.uri}/calm")
    count = requests(bucket.server, lambda: operation(f"{bucket.uri}/calm"))
    expected = state(f"{bucket.uri}/calm")
    for number in some(count):
        models = f"{bucket.uri}/{number}"
        before(models)
        bucket.server.fail(since(number), *[503] * 1000)
        with monkeypatch.context() as hurried:
            hurried.setattr(storage, "DEADLINE", 0.02)
            with pytest.raises(storage.StorageError, match=r"cannot (read|write|list|find|remove) .*bucket"):
                operation(models)
        bucket.server.calm()
        (champion, previous), whole, audit = state(models)
        assert (champion, previous) in (earlier[0], expected[0])
        assert champion in whole
        assert audit[: len(earlier[2])] == earlier[2]
        if name != "rollback" or (champion, previous) == earlier[0]:  # to roll back again would be another decision
            operation(models)
        assert state(models)[:2] == expected[:2], number


@pytest.mark.parametrize("bucket", ["google", "amazon"], indirect=True)
def test_an_answer_that_comes_too_late_is_asked_for_again(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "TIMEOUT", (gcs.SLOW / 4, gcs.SLOW / 4))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", bucket.server.url)  # a client of its own, which has this patience
    for method in (
        lambda: storage.write_bytes(f"{bucket.uri}/file", b"content"),
        lambda: storage.read_bytes(f"{bucket.uri}/file"),
    ):
        bucket.server.fail(at(1), "slow")
        assert requests(bucket.server, method) > 0, "it was not asked for again"
    assert storage.read_bytes(f"{bucket.uri}/file") == b"content"
