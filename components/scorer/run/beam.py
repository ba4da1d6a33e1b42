"""Apache Beam pipelines on Beam's runners, with a check of the runner's options before any work.

Options have the form of a command line, e.g. ``--runner=DaskRunner --dask_client_address=tcp://scheduler:8786``:

* ``DirectRunner``: this machine;
* ``DaskRunner``: the workers of a Dask scheduler (``--dask_client_address`` or ``--dask_scheduler_file``); without a
  scheduler, processes of this machine;
* ``FlinkRunner``, ``SparkRunner``, ``PortableRunner``, ``DataflowRunner``, ``PrismRunner``: the options must name
  every program of another language that the runner needs. Beam would otherwise download the program, or fail midway.

Workers on other machines run the same version of this project, and reach the same addresses as the submitting machine.
Each worker of Flink and Spark needs a container of the steps' image beside it. The container runs Beam's worker pool
(``python -m apache_beam.runners.worker.worker_pool_main --service_port=50000``) and is named by
``--environment_type=EXTERNAL --environment_config=localhost:50000``. The job server of Flink and Spark is a jar from
Apache, of the same version as apache-beam. ``--job_endpoint=HOST:8099`` names a running job server. Otherwise the job
server is started here: for Flink by ``--flink_job_server_jar=FILE`` and ``--flink_master=HOST:8081``, for Spark by
``--spark_job_server_jar=FILE`` and ``--spark_master_url=spark://HOST:7077``.
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
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import apache_beam as beam

DASK = "apache_beam.runners.dask.dask_runner.DaskRunner"  # Beam has no shorter name for this runner
CHECKED_RUNNERS = (
    "DirectRunner",
    "DaskRunner",
    "FlinkRunner",
    "SparkRunner",
    "PortableRunner",
    "DataflowRunner",
    "PrismRunner",
)
"""The runners whose options are checked; another runner is named by its module and class."""

WORKER_TIMEOUT = 60
"""Seconds to wait for the first worker of a Dask scheduler: the start of a pod whose image is on the node already."""

_DASK_ADDRESS_OPTIONS = ("--dask_client_address", "--dask_scheduler_file")
_DISTRIBUTIONS = ("apache-beam", "numpy", "pillow")  # packages that affect the bytes of a result
_ADDRESS = re.compile(r"(tcp|tls|ws|wss|ucx)://[^/\s:]+:\d+/?")  # address of a Dask scheduler
_ENDPOINT = re.compile(r"(\w+://)?(\[[\da-fA-F:]+\]|[^/\s:]+):\d+/?")


def run_pipeline(build: Callable[["beam.Pipeline"], Any], options: str) -> None:
    """Run a pipeline to its end.

    Args:
        build: Function that adds the transforms. On Dask, results of transforms after the first are unreliable: the
            Dask runner computes the last transform only, drops the output of ``finish_bundle``, and may emit elements
            twice.
        options: Options of the runner, as `check_options` takes them.

    Raises:
        ValueError: An option is unknown, wrong or missing; raised before any work.
        RuntimeError: A package, scheduler or worker is missing (raised before any work), or a worker died, most often
            because its memory was exhausted.
        Exception: Any error that a transform raised.
    """
    flags = check_options(options)
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    with _explain_killed_workers(), _local_dask_cluster(flags) as dask_flags:
        pipeline = beam.Pipeline(options=PipelineOptions([*flags, *dask_flags]))
        build(pipeline)
        result = pipeline.run()
        try:
            result.wait_until_finish()
        finally:
            if client := getattr(result, "client", None):  # a Dask client, which the Dask runner leaves open
                client.close()


def check_options(options: str) -> list[str]:
    """Check the options of a runner and return them as command-line flags.

    Raises:
        ValueError: An option is unknown, wrong or missing; the message names the option and its valid values.
        RuntimeError: Apache Beam or Dask is not installed; no Dask scheduler answers at the address; the scheduler has
            no worker; or a worker runs other code than this process.
    """
    try:
        flags = shlex.split(options)
    except ValueError as error:
        raise ValueError(f"expected options of a Beam runner as on a command line, got {options!r}: {error}") from None
    if importlib.util.find_spec("apache_beam") is None:
        raise RuntimeError(_missing_package_message(options, "Apache Beam"))
    values = _parse(flags, options)
    runner = _runner_name(values["runner"])
    if runner == "DaskRunner":
        _check_dask(values, options)
        # By default hundreds of photos form one partition, and all workers but one wait.
        has_partitions = values["npartitions"] or values["partition_size"]
        return [*_without_runner(flags), f"--runner={DASK}", *([] if has_partitions else ["--dask_partition_size=1"])]
    checks = {
        "FlinkRunner": _check_flink,
        "SparkRunner": _check_spark,
        "PortableRunner": _check_portable,
        "DataflowRunner": _check_dataflow,
        "PrismRunner": _check_prism,
    }
    if runner in checks:
        checks[runner](values)
    return flags


def _missing_package_message(options: str, package: str) -> str:
    return (
        f"the options of the Beam runner are {options!r}, but {package} is not installed: install the extra 'scale' "
        "(pip install 'portrait-scorer[scale]'); ingestion uses this machine's cores without, where they are empty"
    )


def _parse(flags: list[str], options: str) -> dict[str, Any]:
    """Return every Beam option with its value or default, parsed by Beam's own definitions."""
    from apache_beam.options import pipeline_options

    if importlib.util.find_spec("distributed"):
        from apache_beam.runners.dask import dask_runner as _adds_its_options  # noqa: F401
    elif any("dask" in flag.lower() for flag in flags):
        raise RuntimeError(_missing_package_message(options, "Dask"))

    class Parser(pipeline_options._BeamArgumentParser):
        def error(self, message: str) -> NoReturn:  # argparse's own method ends the process
            raise ValueError(f"the options of the Beam runner, {options!r}, cannot be read: {message}")

    parser = Parser(allow_abbrev=False, add_help=False)
    for options_class in {
        str(options_class): options_class for options_class in pipeline_options.PipelineOptions.__subclasses__()
    }.values():
        options_class._add_argparse_args(parser)
    parsed, unknown = parser.parse_known_args(flags)
    if unknown:  # Beam would drop the option with a warning and run on another runner
        name = unknown[0].partition("=")[0]
        matches = difflib.get_close_matches(
            name, [flag for action in parser._actions for flag in action.option_strings]
        )
        raise ValueError(
            f"no Beam runner has an option {name!r}" + (f": did you mean {matches[0]}?" if matches else "")
        )
    return vars(parsed)


def _runner_name(name: str | None) -> str:
    """Return the runner's full name: one of `CHECKED_RUNNERS`, or the module and class of another runner."""
    name = name or "DirectRunner"
    by_lower_name = {runner.lower(): runner for runner in CHECKED_RUNNERS}
    if name in (DASK, *CHECKED_RUNNERS):
        return name.rpartition(".")[2]
    if match := by_lower_name.get(name.lower()) or by_lower_name.get(f"{name}runner".lower()):
        return match
    if "." in name:
        return name
    matches = difflib.get_close_matches(name, CHECKED_RUNNERS)
    raise ValueError(
        f"expected --runner to be one of {', '.join(CHECKED_RUNNERS)}, or a runner's module and class, got {name!r}"
        + (f": did you mean {matches[0]}?" if matches else "")
    )


def _without_runner(flags: list[str]) -> list[str]:
    """Return the flags without ``--runner=NAME`` and ``--runner NAME``."""
    rest, remaining = [], iter(flags)
    for flag in remaining:
        if flag == "--runner":
            next(remaining)
        elif not flag.startswith("--runner="):
            rest.append(flag)
    return rest


def _check_dask(values: dict[str, Any], options: str) -> None:
    """Check the options of the Dask runner; if they name a scheduler, check the scheduler and its workers."""
    if importlib.util.find_spec("distributed") is None:
        raise RuntimeError(_missing_package_message(options, "Dask"))
    address, file = values["address"], values["scheduler_file"]
    if address and file:
        raise ValueError("expected --dask_client_address or --dask_scheduler_file, got both")
    if address and not _ADDRESS.fullmatch(address):
        raise ValueError(
            f"expected --dask_client_address to be of the form tcp://scheduler:8786, or with tls or ws, got {address!r}"
        )
    if file and not Path(file).is_file():
        raise ValueError(f"expected the file that `dask scheduler --scheduler-file` writes at {file}, found none")
    for name in ("npartitions", "partition_size"):
        if values[name] is not None and values[name] < 1:
            raise ValueError(f"expected --dask_{name} to be 1 or more, got {values[name]}")
    if address or file:
        _check_workers({"address": address} if address else {"scheduler_file": file}, values["timeout"])


def _check_workers(target: dict[str, str], timeout: Any) -> None:
    """Raise RuntimeError if the scheduler does not answer or has no worker, or if a worker runs other code."""
    import distributed

    scheduler = next(iter(target.values()))
    seconds = timeout if isinstance(timeout, int) else 30
    try:
        client = distributed.Client(**target, timeout=seconds)
    except (OSError, ValueError) as error:
        raise RuntimeError(f"no Dask scheduler answers at {scheduler} within {seconds} s: {error}") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=WORKER_TIMEOUT)
        except TimeoutError:
            raise RuntimeError(
                f"the Dask scheduler at {scheduler} has no worker within {WORKER_TIMEOUT} s: start some"
            ) from None
        ours = _code_versions()
        try:
            by_worker = client.run(_code_versions)
        except Exception as error:  # Dask reraises some errors as plain Exception
            if "ModuleNotFoundError" not in f"{type(error).__name__} {error}":
                raise
            raise RuntimeError(
                f"the Dask workers of {scheduler} lack this project, give them its image: {error}"
            ) from None
    for worker, remote in sorted(by_worker.items()):
        for name in sorted(ours):
            if remote[name] != ours[name]:
                raise RuntimeError(
                    f"the Dask worker {worker} has {name} {remote[name]}, this process {ours[name]}: start it from the "
                    "same image, or the result would depend on where a photo was read"
                )
    print(f"Dask: {len(by_worker)} workers at {scheduler}", flush=True)


def _code_versions() -> dict[str, str]:
    """Return this process's versions that affect a result's bytes: packages, and a digest of the project's code."""
    digest = hashlib.sha256()
    folder = Path(__file__).parents[2]
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    versions = {name: importlib.metadata.version(name) for name in _DISTRIBUTIONS}
    return versions | {"the project's code": digest.hexdigest()[:12]}


def _check_flink(values: dict[str, Any]) -> None:
    _check_job_server("FlinkRunner", "flink_job_server_jar", values)
    master = values["flink_master"]
    if not values["job_endpoint"]:
        if master == "[auto]" or not (master == "[local]" or _ENDPOINT.fullmatch(master)):
            raise ValueError(
                "expected --flink_master to be HOST:PORT of Flink's REST service, or [local] to try it on this "
                f"machine, got {master!r}"
            )
        if values["flink_submit_uber_jar"] and master == "[local]":
            raise ValueError("--flink_submit_uber_jar needs --flink_master=HOST:PORT, got '[local]'")
    _check_environment("FlinkRunner", values, local=master == "[local]" and not values["job_endpoint"])


def _check_spark(values: dict[str, Any]) -> None:
    _check_job_server("SparkRunner", "spark_job_server_jar", values)
    master, local = values["spark_master_url"], False
    if not values["job_endpoint"]:
        if values["spark_submit_uber_jar"] and not values["spark_rest_url"]:
            raise ValueError("--spark_submit_uber_jar needs --spark_rest_url, e.g. http://HOST:6066")
        local = bool(re.fullmatch(r"local(\[.+\])?", master)) and not values["spark_submit_uber_jar"]
        if not (
            local or values["spark_submit_uber_jar"] or re.fullmatch(r"spark://[^/\s:]+:\d+|yarn|k8s://.+", master)
        ):
            raise ValueError(f"expected --spark_master_url to be spark://HOST:PORT or local[*], got {master!r}")
    _check_environment("SparkRunner", values, local)


def _check_portable(values: dict[str, Any]) -> None:
    if not values["job_endpoint"]:
        raise ValueError("PortableRunner needs --job_endpoint=HOST:PORT of a Beam job server that is running")
    _check_endpoint("job_endpoint", values["job_endpoint"])
    _check_environment("PortableRunner", values, local=False)


def _check_dataflow(values: dict[str, Any]) -> None:
    for name in ("project", "region", "temp_location", "sdk_container_image"):
        if not values.get(name):
            raise ValueError(
                f"DataflowRunner needs --{name}; all it needs: --project, --region, --temp_location=gs://BUCKET/FOLDER "
                "and --sdk_container_image with this project in it"
            )
    if not values["temp_location"].startswith("gs://"):
        raise ValueError(f"expected --temp_location to be a gs:// address, got {values['temp_location']!r}")
    if importlib.util.find_spec("apitools") is None:
        raise RuntimeError("DataflowRunner needs more of Apache Beam: pip install 'apache-beam[gcp]'")


def _check_prism(values: dict[str, Any]) -> None:
    if not (location := values["prism_location"]) or not (Path(location).is_file() or "://" in location):
        raise ValueError(f"PrismRunner needs --prism_location, the path or URL of its program, got {location!r}")


def _check_job_server(runner: str, jar: str, values: dict[str, Any]) -> None:
    """Check that a job server is running or can be started: Beam would download a missing jar from the internet."""
    if values["job_endpoint"]:
        _check_endpoint("job_endpoint", values["job_endpoint"])
        return
    if not values[jar]:
        raise ValueError(
            f"{runner} needs --job_endpoint=HOST:PORT of a Beam job server that is running, or --{jar}=FILE to start "
            "one; the jar is Apache's, of the same version as apache-beam "
            f"({importlib.metadata.version('apache-beam')})"
        )
    if "://" not in values[jar] and not Path(values[jar]).is_file():
        raise ValueError(f"expected a jar at --{jar}={values[jar]}, found none")
    if not shutil.which(values["job_server_java_launcher"]):
        raise ValueError(f"--{jar} needs Java, and there is no {values['job_server_java_launcher']!r} on this machine")


def _check_environment(runner: str, values: dict[str, Any], local: bool) -> None:
    """Check the workers' environment: Beam's default image lacks this project."""
    kind, config = (values["environment_type"] or "").upper(), values["environment_config"]
    options = dict(option.partition("=")[::2] for option in values["environment_options"] or [])
    if not kind and local:
        return  # Beam then runs the transforms in this process
    settings = {
        "DOCKER": ("docker_container_image", "the image of the steps with Beam's boot program"),
        "PROCESS": ("process_command", "the command that starts Beam's boot program on a worker"),
        "EXTERNAL": ("external_service_address", "HOST:PORT of a worker pool beside each worker"),
    }
    if kind == "LOOPBACK":
        if local:
            return
        raise ValueError(f"--environment_type=LOOPBACK runs all of the work in this process: {runner} gains nothing")
    if kind not in settings:
        raise ValueError(
            f"{runner} needs --environment_type to be one of {', '.join(settings)}, with --environment_config, for "
            f"Beam's own image lacks this project; got {values['environment_type']!r}"
        )
    option, meaning = settings[kind]
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
def _local_dask_cluster(flags: list[str]) -> Iterator[list[str]]:
    """Start Dask workers on this machine for one pipeline, unless the flags name a scheduler; yield their options."""
    if f"--runner={DASK}" not in flags or any(flag.startswith(_DASK_ADDRESS_OPTIONS) for flag in flags):
        yield []
        return
    import distributed
    from dask.system import CPU_COUNT

    logging.getLogger("distributed").setLevel(logging.ERROR)
    quiet = {"dashboard_address": "127.0.0.1:0", "silence_logs": logging.ERROR}
    # One process per core: a second Python thread in a process would gain nothing.
    with distributed.LocalCluster(n_workers=CPU_COUNT, threads_per_worker=1, processes=True, **quiet) as cluster:
        yield [f"--dask_client_address={cluster.scheduler_address}"]


@contextlib.contextmanager
def _explain_killed_workers() -> Iterator[None]:
    """Turn Dask's ``KilledWorker`` into a RuntimeError that names the likely cause."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ == "KilledWorker":  # compared by name, as Dask may not be installed
            raise RuntimeError(
                "a Dask worker died several times over the same photos, most often because its memory is exhausted: "
                "give the workers more (dask worker --memory-limit), or look into their logs"
            ) from error
        raise
