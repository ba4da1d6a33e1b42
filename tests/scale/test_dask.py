"""Ingestion on Dask with several worker processes: equal data sets, killed workers, workers with other code."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import distributed
import psutil
import pytest

from components.ingestion import ingest
from components.ingestion.photos import parallel_map, photo_inspection
from components.scorer.run import beam
from tests.builders.ingestions import SETTINGS, Inputs, same_files

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 2


@pytest.fixture(scope="module")
def dask() -> Iterator[distributed.LocalCluster]:
    """A scheduler with two worker processes."""
    with distributed.LocalCluster(
        n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster


def options(cluster: distributed.LocalCluster) -> str:
    return f"--runner=DaskRunner --dask_client_address={cluster.scheduler_address}"


def _leave_a_mark(folder: Path, item: int) -> None:
    time.sleep(0.05)
    (folder / f"{item:02}.{os.getpid()}").touch()


def _refuse(item: int) -> None:
    raise ValueError(f"item {item} is refused")


def _die_once(folder: Path, item: int) -> None:
    if item == 5:
        try:
            (folder / "died").touch(exist_ok=False)
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    (folder / f"{item:02}").touch()


def _die(item: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_ingestion_on_dask_and_on_processes_gives_the_same_bytes(dask, tmp_path, monkeypatch):
    monkeypatch.setattr(ingest, "SHARD_BYTES", 20_000)
    monkeypatch.setattr(photo_inspection, "CHUNK_SIZE", 7)
    inputs = Inputs(tmp_path)
    summary_of_processes = inputs.ingest("processes")
    by_processes = inputs.dataset
    summary_of_dask = inputs.ingest(
        "dask", replace(SETTINGS, beam_options=options(dask)), workspace=str(tmp_path / "another")
    )
    assert len(list(by_processes.glob("*train*"))) > 2
    assert same_files(by_processes, inputs.dataset)
    assert summary_of_processes == summary_of_dask


def test_each_item_is_done_once_and_every_worker_takes_part(dask, tmp_path):
    parallel_map.on_beam(partial(_leave_a_mark, tmp_path), range(20), options(dask), "mark")
    items, processes = zip(*(path.name.split(".") for path in tmp_path.iterdir()), strict=True)
    assert sorted(map(int, items)) == list(range(20))
    assert len(set(processes)) == WORKERS


def test_an_error_in_a_worker_reaches_the_caller(dask):
    with pytest.raises(ValueError, match=r"item \d is refused"):
        parallel_map.on_beam(_refuse, range(3), options(dask), "refuse")


def test_another_worker_does_the_items_of_a_killed_worker(dask, tmp_path):
    parallel_map.on_beam(partial(_die_once, tmp_path), range(12), options(dask), "die once")
    assert {path.name for path in tmp_path.iterdir()} == {"died", *(f"{item:02}" for item in range(12))}


def test_photos_that_kill_every_worker_are_named_as_the_cause(dask):
    with pytest.raises(RuntimeError, match=r"a Dask worker died several times over the same photos.*--memory-limit"):
        parallel_map.on_beam(_die, [1], options(dask), "die")


def test_without_a_scheduler_local_processes_do_the_work_and_end(tmp_path):
    children_before = set(psutil.Process().children(recursive=True))
    parallel_map.on_beam(partial(_leave_a_mark, tmp_path), range(8), "--runner=DaskRunner", "mark")
    assert len(list(tmp_path.iterdir())) == 8
    assert str(os.getpid()) not in {path.suffix[1:] for path in tmp_path.iterdir()}
    new_children = set(psutil.Process().children(recursive=True)) - children_before
    assert not [child for child in new_children if "distributed" in " ".join(child.cmdline())]


WITHOUT = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "components":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
"""
"""Content of sitecustomize.py that hides this project, which is installed here, from an interpreter."""


def start(scheduler: str, code: Path) -> subprocess.Popen:
    """Start a worker that imports this project from a folder."""
    command = [sys.executable, "-m", "distributed.cli.dask_worker", scheduler, "--nthreads=1", "--no-dashboard"]
    environment = {**os.environ, "PYTHONPATH": str(code)}
    return subprocess.Popen(command, env=environment, cwd=code, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("kind", ["other code", "no code"])
def test_workers_without_this_code_are_refused_before_any_work(kind, tmp_path):
    if kind == "other code":
        shutil.copytree(ROOT / "components", tmp_path / "components")
        with (tmp_path / "components" / "scorer" / "imaging" / "decoding.py").open("a") as file:
            file.write("# another version\n")
    else:
        (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    expected = {"other code": r"has the project's code \w+, this process \w+", "no code": "lack this project"}[kind]
    with distributed.LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster:
        worker = start(cluster.scheduler_address, tmp_path)
        try:
            with pytest.raises(RuntimeError, match=expected):
                beam.check_options(options(cluster))
        finally:
            worker.terminate()
            worker.wait(20)


def test_a_scheduler_without_workers_is_refused(monkeypatch):
    monkeypatch.setattr(beam, "WORKER_TIMEOUT", 1)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster,
        pytest.raises(RuntimeError, match=r"has no worker within 1 s"),
    ):
        beam.check_options(options(cluster))
