"""Faults of the models' bucket at every request of every operation: survived, or one error and no half-done change.

The faults: busy servers (429, 503), connections reset before or after the change was made, and slow answers.
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

pytestmark = pytest.mark.slow

TROUBLES = (503, "reset", 429, "lost")
MOST = 6  # requests of an operation that get a fault: all, or this many evenly among them


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
"""By name: the preparation of a models folder, and the operation during which faults occur."""

EACH = pytest.mark.parametrize(
    ("bucket", "name"),
    [("google", "push"), ("google", "rollback"), ("google", "gc"), ("amazon", "push"), ("amazon", "promote")],
    indirect=["bucket"],
)


@pytest.fixture
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a server that injects faults, with its address; its clients retry without delay."""
    from google.cloud.storage import retry

    monkeypatch.setattr(promotion, "verify", complete)
    monkeypatch.setattr(retry, "DEFAULT_RETRY", retry.DEFAULT_RETRY.with_delay(initial=0.001, maximum=0.01))
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda seconds: None))
    server = request.getfixturevalue(request.param)
    return SimpleNamespace(server=server, uri={"google": "gs://bucket", "amazon": "s3://bucket"}[request.param])


def at(number: int) -> Callable[[Any], bool]:
    """Return a predicate that is true for the ``number``-th request from now."""
    counter = itertools.count(1)
    return lambda request: next(counter) == number


def since(number: int) -> Callable[[Any], bool]:
    """Return a predicate that is true from the ``number``-th request on."""
    counter = itertools.count(1)
    return lambda request: next(counter) >= number


def requests(server: Any, operation: Callable[[], Any]) -> int:
    """Return the number of requests of an operation."""
    counter = itertools.count(1)
    server.fail(lambda request: next(counter) < 0, 503)
    operation()
    server.calm()
    return next(counter) - 1


def some(count: int) -> list[int]:
    """Return numbers of requests from 1 to ``count``, including both ends."""
    return sorted({1 + round(step * (count - 1) / (MOST - 1)) for step in range(MOST)})


def state(models: str) -> Any:
    """Return the state of the bucket: channels, complete versions, and the audit without ids and times."""
    audit = [
        {key: entry.get(key) for key in ("action", "from", "to", "removed")} for entry in channels.audit(models, NAME)
    ]
    complete_versions = [
        version.version for version in versions.list_versions(models, NAME) if version.state == "complete"
    ]
    return serving(models), complete_versions, audit


@EACH
def test_one_fault_at_any_request_does_not_change_the_outcome(bucket: Any, name: str) -> None:
    prepare, operation = OPERATIONS[name]
    prepare(f"{bucket.uri}/calm")
    count = requests(bucket.server, lambda: operation(f"{bucket.uri}/calm"))
    expected = state(f"{bucket.uri}/calm")
    assert count > 3
    for number, fault in zip(some(count), itertools.cycle(TROUBLES), strict=False):
        models = f"{bucket.uri}/{number}"
        prepare(models)
        bucket.server.fail(at(number), fault)
        operation(models)
        bucket.server.calm()
        assert state(models) == expected, (number, fault)


@EACH
def test_an_outage_from_any_request_on_gives_one_error_and_the_next_attempt_completes_the_operation(
    bucket: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, operation = OPERATIONS[name]
    prepare(f"{bucket.uri}/calm")
    earlier_state = state(f"{bucket.uri}/calm")
    count = requests(bucket.server, lambda: operation(f"{bucket.uri}/calm"))
    expected_state = state(f"{bucket.uri}/calm")
    for number in some(count):
        models = f"{bucket.uri}/{number}"
        prepare(models)
        bucket.server.fail(since(number), *[503] * 1000)
        with monkeypatch.context() as patch:
            patch.setattr(storage, "DEADLINE", 0.02)
            with pytest.raises(storage.StorageError, match=r"cannot (read|write|list|find|remove) .*bucket"):
                operation(models)
        bucket.server.calm()
        (champion, previous), complete_versions, audit = state(models)
        assert (champion, previous) in (earlier_state[0], expected_state[0])
        assert champion in complete_versions
        assert audit[: len(earlier_state[2])] == earlier_state[2]
        if (
            name != "rollback" or (champion, previous) == earlier_state[0]
        ):  # repeating a completed rollback would be another change
            operation(models)
        assert state(models)[:2] == expected_state[:2], number


@pytest.mark.parametrize("bucket", ["google", "amazon"], indirect=True)
def test_a_request_with_a_slow_answer_is_retried(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "TIMEOUT", (gcs.SLOW / 4, gcs.SLOW / 4))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", bucket.server.url)  # forces a new client, which has this timeout
    for request in (
        lambda: storage.write_bytes(f"{bucket.uri}/file", b"content"),
        lambda: storage.read_bytes(f"{bucket.uri}/file"),
    ):
        bucket.server.fail(at(1), "slow")
        assert requests(bucket.server, request) > 0, "it was not asked for again"
    assert storage.read_bytes(f"{bucket.uri}/file") == b"content"
