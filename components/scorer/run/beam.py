"""Apache Beam pipelines on the runners that it has, and options that are refused before any work when they cannot do.

Options are given as on a command line, e.g. ``--runner=DaskRunner --dask_client_address=tcp://scheduler:8786``:

* ``DirectRunner``, this machine;
* ``DaskRunner``, the workers of a Dask scheduler (``--dask_client_address`` or ``--dask_scheduler_file``) or, without
  one, processes of this machine;
* ``FlinkRunner``, ``SparkRunner``, ``PortableRunner``, ``DataflowRunner``, ``PrismRunner``: what they need in programs
  of other languages is checked to be named, for Beam would fetch it from the internet or miss it in the middle.

Workers on other machines run this very project, and reach the same addresses as the machine that submits. Flink's and
Spark's find it in a container of the steps' image beside each of them, which runs Beam's worker pool (``python -m
apache_beam.runners.worker.worker_pool_main --service_port=50000``) and is named by ``--environment_type=EXTERNAL
--environment_config=localhost:50000``. Their job server is a jar of Apache's of the same version as apache-beam: one
that is running is named by ``--job_endpoint=HOST:8099``; or it is started here from ``--flink_job_server_jar=FILE``
with ``--flink_master=HOST:8081``, or ``--spark_job_server_jar=FILE`` with ``--spark_master_url=spark://HOST:7077``.
"""

import contextlib
import difflib
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import apache_beam as beam

DASK = "apache_beam.runners.dask.dask_runner.DaskRunner"  # which Beam knows by no shorter name
KNOWN = ("DirectRunner", "DaskRunner", "FlinkRunner", "SparkRunner", "PortableRunner", "DataflowRunner", "PrismRunner")
"""The runners whose options are checked; any other one is named by its module and class."""

WORKERS = 60
"""Seconds to wait for the first worker of a Dask scheduler: as long as a pod takes to start with its image there."""

_PLACES = ("--dask_client_address", "--dask_scheduler_file")
_DISTRIBUTIONS = ("apache-beam", "numpy", "pillow")  # on which the bytes of a result depend
_ADDRESS = re.compile(r"(tcp|tls|ws|wss|ucx)://[^/\s:]+:\d+/?")  # of a Dask scheduler
_ENDPOINT = re.compile(r"(\w+://)?(\[[\da-fA-F:]+\]|[^/\s:]+):\d+/?")


def run(build: Callable[["beam.Pipeline"], Any], options: str) -> None:
    """Run a pipeline to its end.

    Args:
        build: adds the transforms. On Dask results of transforms after the first are not to be relied on: its runner
            computes the last one only, forgets what a bundle gives at its end, and may give elements twice.
        options: see `check`.

    Raises:
        ValueError, RuntimeError: as `check` says, and before anything was done.
        RuntimeError: a worker died, most often because its memory was exhausted.
        Exception: whatever a transform raised.
    """
    flags = check(options)
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    with _clear_errors(), _processes(flags) as more:
        pipeline = beam.Pipeline(options=PipelineOptions([*flags, *more]))
        build(pipeline)
        result = pipeline.run()
        try:
            result.wait_until_finish()
        finally:
            if client := getattr(result, "client", None):  # Dask's, which its runner leaves open
                client.close()


def check(options: str) -> list[str]:
    """The options as flags, once they are known to do.

    Raises:
        ValueError: an option is unknown, wrong or missing; says which, and what to give.
        RuntimeError: Apache Beam or Dask is not installed; no Dask scheduler answers at the address, it has no worker,
            or a worker runs other code than this process.
    """
    try:
        flags = shlex.split(options)
    except ValueError as error:
        raise ValueError(f"expected options of a Beam runner as on a command line, got {options!r}: {error}") from None
    if importlib.util.find_spec("apache_beam") is None:
        raise RuntimeError(_missing(options, "Apache Beam"))
    given = _parsed(flags, options)
    runner = _runner(given["runner"])
    if runner == "DaskRunner":
        _check_dask(given, options)
        # Else photos by the hundred make one piece of work, and all but one worker wait.
        parted = given["npartitions"] or given["partition_size"]
        return [*_without_runner(flags), f"--runner={DASK}", *([] if parted else ["--dask_partition_size=1"])]
    looks = {
        "FlinkRunner": _check_flink,
        "SparkRunner": _check_spark,
        "PortableRunner": _check_portable,
        "DataflowRunner": _check_dataflow,
        "PrismRunner": _check_prism,
    }
    if runner in looks:
        looks[runner](given)
    return flags


def _missing(options: str, what: str) -> str:
    return (
        f"the options of the Beam runner are {options!r}, but {what} is not installed: install the extra 'scale' "
        "(pip install 'portrait-scorer[scale]'); ingestion uses this machine's cores without, where they are empty"
    )


def _parsed(flags: list[str], options: str) -> dict[str, Any]:
    """Every option with its value or default, by Beam's own definitions."""
    from apache_beam.options import pipeline_options

    if importlib.util.find_spec("distributed"):
        from apache_beam.runners.dask import dask_runner as _adds_its_options  # noqa: F401
    elif any("dask" in flag.lower() for flag in flags):
        raise RuntimeError(_missing(options, "Dask"))

    class Parser(pipeline_options._BeamArgumentParser):
        def error(self, message: str) -> None:  # argparse's own ends the process
            raise ValueError(f"the options of the Beam runner, {options!r}, cannot be read: {message}")

    parser = Parser(allow_abbrev=False, add_help=False)
    for each in {str(each): each for each in pipeline_options.PipelineOptions.__subclasses__()}.values():
        each._add_argparse_args(parser)
    known, unknown = parser.parse_known_args(flags)
    if unknown:  # Beam drops it with a warning, and runs elsewhere than was meant
        name = unknown[0].partition("=")[0]
        near = difflib.get_close_matches(name, [text for each in parser._actions for text in each.option_strings])
        raise ValueError(f"no Beam runner has an option {name!r}" + (f": did you mean {near[0]}?" if near else ""))
    return vars(known)


def _runner(name: str | None) -> str:
    """The runner that is meant: one of `KNOWN`, or the module and class of another."""
    name = name or "DirectRunner"
    short = {each.lower(): each for each in KNOWN}
    if name in (DASK, *KNOWN):
        return name.rpartition(".")[2]
    if found := short.get(name.lower()) or short.get(f"{name}runner".lower()):
        return found
    if "." in name:
        return name
    near = difflib.get_close_matches(name, KNOWN)
    raise ValueError(
        f"expected --runner to be one of {', '.join(KNOWN)}, or a runner's module and class, got {name!r}"
        + (f": did you mean {near[0]}?" if near else "")
    )


def _without_runner(flags: list[str]) -> list[str]:
    """The flags but for the runner's name, in either of the two forms."""
    left, given = [], iter(flags)
    for flag in given:
        if flag == "--runner":
            next(given)
        elif not flag.startswith("--runner="):
            left.append(flag)
    return left


def _check_dask(given: dict[str, Any], options: str) -> None:
    """The options, and where they name a scheduler, that it answers and that its workers are ours."""
    if importlib.util.find_spec("distributed") is None:
        raise RuntimeError(_missing(options, "Dask"))
    address, file = given["address"], given["scheduler_file"]
    if address and file:
        raise ValueError("expected --dask_client_address or --dask_scheduler_file, got both")
    if address and not _ADDRESS.fullmatch(address):
        raise ValueError(
            f"expected --dask_client_address to be of the form tcp://scheduler:8786, or with tls or ws, got {address!r}"
        )
    if file and not Path(file).is_file():
        raise ValueError(f"expected the file that `dask scheduler --scheduler-file` writes at {file}, found none")
    for name in ("npartitions", "partition_size"):
        if given[name] is not None and given[name] < 1:
            raise ValueError(f"expected --dask_{name} to be 1 or more, got {given[name]}")
    if address or file:
        _check_workers({"address": address} if address else {"scheduler_file": file}, given["timeout"])


def _check_workers(place: dict[str, str], timeout: Any) -> None:
    """Refuse a scheduler that does not answer or has no worker, and workers that would not do the same."""
    import distributed

    where = next(iter(place.values()))
    wait = timeout if isinstance(timeout, int) else 30
    try:
        client = distributed.Client(**place, timeout=wait)
    except (OSError, ValueError) as error:
        raise RuntimeError(f"no Dask scheduler answers at {where} within {wait} s: {error}") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=WORKERS)
        except TimeoutError:
            raise RuntimeError(f"the Dask scheduler at {where} has no worker within {WORKERS} s: start some") from None
        ours = _code()
        try:
            found = client.run(_code)
        except Exception as error:  # Dask hands some on as plain ones
            if "ModuleNotFoundError" not in f"{type(error).__name__} {error}":
                raise
            raise RuntimeError(f"the Dask workers of {where} lack this project, give them its image: {error}") from None
    for worker, theirs in sorted(found.items()):
        for what in sorted(ours):
            if theirs[what] != ours[what]:
                raise RuntimeError(
                    f"the Dask worker {worker} has {what} {theirs[what]}, this process {ours[what]}: start it from the "
                    "same image, or the result would depend on where a photo was read"
                )
    print(f"Dask: {len(found)} workers at {where}", flush=True)


def _code() -> dict[str, str]:
    """What a result's bytes depend on, of this process: versions, and a digest of this project's own code."""
    digest = hashlib.sha256()
    folder = Path(__file__).parents[2]
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    versions = {name: importlib.metadata.version(name) for name in _DISTRIBUTIONS}
    return versions | {"the project's code": digest.hexdigest()[:12]}


def _check_flink(given: dict[str, Any]) -> None:
    _check_job_server("FlinkRunner", "flink_job_server_jar", given)
    master = given["flink_master"]
    if not given["job_endpoint"]:
        if master == "[auto]" or not (master == "[local]" or _ENDPOINT.fullmatch(master)):
            raise ValueError(
                "expected --flink_master to be HOST:PORT of Flink's REST service, or [local] to try it on this "
                f"machine, got {master!r}"
            )
        if given["flink_submit_uber_jar"] and master == "[local]":
            raise ValueError("--flink_submit_uber_jar needs --flink_master=HOST:PORT, got '[local]'")
    _check_environment("FlinkRunner", given, local=master == "[local]" and not given["job_endpoint"])


def _check_spark(given: dict[str, Any]) -> None:
    _check_job_server("SparkRunner", "spark_job_server_jar", given)
    master, local = given["spark_master_url"], False
    if not given["job_endpoint"]:
        if given["spark_submit_uber_jar"] and not given["spark_rest_url"]:
            raise ValueError("--spark_submit_uber_jar needs --spark_rest_url, e.g. http://HOST:6066")
        local = bool(re.fullmatch(r"local(\[.+\])?", master)) and not given["spark_submit_uber_jar"]
        if not (local or given["spark_submit_uber_jar"] or re.fullmatch(r"spark://[^/\s:]+:\d+|yarn|k8s://.+", master)):
            raise ValueError(f"expected --spark_master_url to be spark://HOST:PORT or local[*], got {master!r}")
    _check_environment("SparkRunner", given, local)


def _check_portable(given: dict[str, Any]) -> None:
    if not given["job_endpoint"]:
        raise ValueError("PortableRunner needs --job_endpoint=HOST:PORT of a Beam job server that is running")
    _check_endpoint("job_endpoint", given["job_endpoint"])
    _check_environment("PortableRunner", given, local=False)


def _check_dataflow(given: dict[str, Any]) -> None:
    for name in ("project", "region", "temp_location", "sdk_container_image"):
        if not given.get(name):
            raise ValueError(
                f"DataflowRunner needs --{name}; all it needs: --project, --region, --temp_location=gs://BUCKET/FOLDER "
                "and --sdk_container_image with this project in it"
            )
    if not given["temp_location"].startswith("gs://"):
        raise ValueError(f"expected --temp_location to be a gs:// address, got {given['temp_location']!r}")
    if importlib.util.find_spec("apitools") is None:
        raise RuntimeError("DataflowRunner needs more of Apache Beam: pip install 'apache-beam[gcp]'")


def _check_prism(given: dict[str, Any]) -> None:
    if not (place := given["prism_location"]) or not (Path(place).is_file() or "://" in place):
        raise ValueError(f"PrismRunner needs --prism_location, the path or URL of its program, got {place!r}")


def _check_job_server(runner: str, jar: str, given: dict[str, Any]) -> None:
    """A job server that is running, or what starts one: Beam would look for the jar on the internet."""
    if given["job_endpoint"]:
        _check_endpoint("job_endpoint", given["job_endpoint"])
        return
    if not given[jar]:
        raise ValueError(
            f"{runner} needs --job_endpoint=HOST:PORT of a Beam job server that is running, or --{jar}=FILE to start "
            "one; the jar is Apache's, of the same version as apache-beam "
            f"({importlib.metadata.version('apache-beam')})"
        )
    if "://" not in given[jar] and not Path(given[jar]).is_file():
        raise ValueError(f"expected a jar at --{jar}={given[jar]}, found none")
    if not shutil.which(given["job_server_java_launcher"]):
        raise ValueError(f"--{jar} needs Java, and there is no {given['job_server_java_launcher']!r} on this machine")


def _check_environment(runner: str, given: dict[str, Any], local: bool) -> None:
    """Where the workers' Python comes from: Beam's own image, the default, knows nothing of this project."""
    kind, config = (given["environment_type"] or "").upper(), given["environment_config"]
    options = dict(option.partition("=")[::2] for option in given["environment_options"] or [])
    if not kind and local:
        return  # Beam then runs the code in this very process
    needs = {
        "DOCKER": ("docker_container_image", "the image of the steps with Beam's boot program"),
        "PROCESS": ("process_command", "the command that starts Beam's boot program on a worker"),
        "EXTERNAL": ("external_service_address", "HOST:PORT of a worker pool beside each worker"),
    }
    if kind == "LOOPBACK":
        if local:
            return
        raise ValueError(f"--environment_type=LOOPBACK runs all of the work in this process: {runner} gains nothing")
    if kind not in needs:
        raise ValueError(
            f"{runner} needs --environment_type to be one of {', '.join(needs)}, with --environment_config, for "
            f"Beam's own image lacks this project; got {given['environment_type']!r}"
        )
    option, meaning = needs[kind]
    value = config or options.get(option)
    if not value:
        raise ValueError(f"--environment_type={kind} needs --environment_config: {meaning}")
    if kind == "EXTERNAL":
        _check_endpoint("environment_config", value)
    if kind == "PROCESS" and config:
        _check_process(config)


def _check_process(config: str) -> None:
    try:
        command = json.loads(config).get("command")
    except (ValueError, AttributeError):
        command = None
    if not command:
        raise ValueError(f'expected --environment_config to be JSON like {{"command": "/opt/boot"}}, got {config!r}')


def _check_endpoint(name: str, value: str) -> None:
    if not _ENDPOINT.fullmatch(value):
        raise ValueError(f"expected --{name} to be HOST:PORT, got {value!r}")


@contextlib.contextmanager
def _processes(flags: list[str]) -> Iterator[list[str]]:
    """Dask's processes on this machine for the time of one pipeline, where none are named, as options."""
    if f"--runner={DASK}" not in flags or any(flag.startswith(_PLACES) for flag in flags):
        yield []
        return
    import distributed
    from dask.system import CPU_COUNT

    logging.getLogger("distributed").setLevel(logging.ERROR)
    quiet = {"dashboard_address": "127.0.0.1:0", "silence_logs": logging.ERROR}
    # A process a core: one more thread of Python in it would gain nothing.
    with distributed.LocalCluster(n_workers=CPU_COUNT, threads_per_worker=1, processes=True, **quiet) as cluster:
        yield [f"--dask_client_address={cluster.scheduler_address}"]


@contextlib.contextmanager
def _clear_errors() -> Iterator[None]:
    """Say what a death among Dask's workers means."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ == "KilledWorker":  # not imported, for there may be no Dask
            raise RuntimeError(
                "a Dask worker died several times over the same photos, most often because its memory is exhausted: "
                "give the workers more (dask worker --memory-limit), or look into their logs"
            ) from error
        raise
