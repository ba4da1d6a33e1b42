"""Options of Beam runners: wrong options are refused with a message before anything runs."""

import importlib.util
import shutil
import sys

import pytest

pytest.importorskip("apache_beam")

from components.scorer.run import beam, preflight

SERVER = "--job_endpoint=localhost:8099"
POOL = "--environment_type=EXTERNAL --environment_config=localhost:50000"
DATAFLOW = "--project=p --region=r --temp_location=gs://bucket/t --sdk_container_image=i"

REFUSED = {
    "--runner=Direct 'open": r"as on a command line, got .*No closing quotation",
    "--runner=Dsk": r"expected --runner to be one of DirectRunner, DaskRunner, .* got 'Dsk'",
    "--runner=SparkRuner": r"did you mean SparkRunner\?",
    "--runner=FlinkRunner --flink_mster=[local]": r"no .* option '--flink_mster': did you mean --flink_master\?",
    "--runner=DirectRunner astray": r"no Beam runner has an option 'astray'",
    "--runner=FlinkRunner --flink_version=9": r"flink_version: invalid choice: '9'",
    "--runner=FlinkRunner --parallelism=many": r"parallelism: invalid int value: 'many'",
    "--runner=FlinkRunner --flink_master=jobs:8081": r"needs --job_endpoint=HOST:PORT .*or --flink_job_server_jar=FILE",
    "--runner=FlinkRunner --job_endpoint=8099": r"expected --job_endpoint to be HOST:PORT, got '8099'",
    f"--runner=FlinkRunner {SERVER}": r"needs --environment_type .* Beam's own image lacks this project",
    f"--runner=FlinkRunner {SERVER} --environment_type=DOCKER": r"DOCKER needs --environment_config: the image",
    f"--runner=FlinkRunner {SERVER} --environment_type=EXTERNAL --environment_config=host": r"HOST:PORT, got 'host'",
    f"--runner=FlinkRunner {SERVER} --environment_type=LOOPBACK": r"in this process: FlinkRunner gains nothing",
    f"--runner=SparkRunner {SERVER} --environment_type=PROCESS --environment_config=/opt/boot": r"JSON like",
    "--runner=SparkRunner --spark_job_server_jar=/nowhere.jar": r"expected a jar at --spark_job_server_jar=/nowhere",
    "--runner=PortableRunner": r"PortableRunner needs --job_endpoint=HOST:PORT",
    "--runner=DataflowRunner --project=p": r"DataflowRunner needs --region; all it needs",
    f"--runner=DataflowRunner {DATAFLOW.replace('gs://', '/')}": r"be a gs:// address, got '/bucket/t'",
    "--runner=PrismRunner": r"PrismRunner needs --prism_location",
}


@pytest.mark.slow
@pytest.mark.parametrize(("options", "why"), REFUSED.items(), ids=REFUSED)
def test_wrong_or_incomplete_options_are_refused_with_the_expected_form(options, why):
    with pytest.raises(ValueError, match=why):
        beam.check_options(options)


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--runner=direct --direct_running_mode=in_memory",
        f"--runner=FlinkRunner {SERVER} --parallelism=8 {POOL}",
        f"--runner=SparkRunner {SERVER} --environment_type=DOCKER --environment_config=registry/steps:1",
        f"--runner PortableRunner {SERVER} --environment_type=process --environment_option=process_command=/opt/boot",
        "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    ],
)
def test_valid_options_are_returned_unchanged(options):
    assert " ".join(beam.check_options(options)) == options


@pytest.fixture
def jar(tmp_path, monkeypatch) -> str:
    """Path of a job server's jar on a machine with Java."""
    (tmp_path / "server.jar").touch()
    java = tmp_path / "java"
    java.touch()
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return str(tmp_path / "server.jar")


def test_a_local_job_server_needs_a_jar_java_and_a_master(jar, monkeypatch):
    flink = f"--runner=FlinkRunner --flink_job_server_jar={jar}"
    with pytest.raises(ValueError, match=r"--flink_master to be HOST:PORT .* got '\[auto\]'"):
        beam.check_options(flink)
    with pytest.raises(ValueError, match=r"--flink_submit_uber_jar needs --flink_master=HOST:PORT"):
        beam.check_options(f"{flink} --flink_master=[local] --flink_submit_uber_jar")
    assert beam.check_options(f"{flink} --flink_master=[local]")
    assert beam.check_options(f"{flink} --flink_master=http://jobs:8081 {POOL}")
    spark = f"--runner=SparkRunner --spark_job_server_jar={jar}"
    with pytest.raises(ValueError, match=r"--spark_submit_uber_jar needs --spark_rest_url"):
        beam.check_options(f"{spark} --spark_submit_uber_jar {POOL}")
    with pytest.raises(ValueError, match=r"--spark_master_url to be spark://HOST:PORT .* got 'jobs:7077'"):
        beam.check_options(f"{spark} --spark_master_url=jobs:7077 {POOL}")
    assert beam.check_options(f"{spark} --spark_master_url=local[2]")
    assert beam.check_options(f"{spark} --spark_master_url=spark://jobs:7077 {POOL}")
    monkeypatch.setenv("PATH", "/nowhere")
    assert shutil.which("java") is None
    with pytest.raises(ValueError, match=r"needs Java, and there is no 'java' on this machine"):
        beam.check_options(f"{flink} --flink_master=[local]")


def test_dataflow_without_beams_gcp_extra_names_the_extra(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "apitools" else find_spec(name))
    with pytest.raises(RuntimeError, match=r"apache-beam\[gcp\]"):
        beam.check_options(f"--runner=DataflowRunner {DATAFLOW}")


def test_the_error_for_missing_dask_names_the_extra(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "distributed" else find_spec(name))
    with pytest.raises(RuntimeError, match=r"Dask is not installed: install the extra 'scale'"):
        beam.check_options("--runner=DaskRunner")


def test_the_error_for_missing_beam_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(RuntimeError, match=r"Apache Beam is not installed: install the extra 'scale'"):
        beam.check_options("--runner=DirectRunner")


DASK = {
    "--dask_client_address=localhost:8786": r"of the form tcp://scheduler:8786, .* got 'localhost:8786'",
    "--dask_client_adress=tcp://a:1": r"'--dask_client_adress': did you mean --dask_client_address\?",
    "--dask_scheduler_file=/nowhere.json": r"the file that `dask scheduler --scheduler-file` writes at /nowhere.json",
    "--dask_client_address=tcp://a:1 --dask_scheduler_file=b": r"--dask_scheduler_file, got both",
    "--dask_npartitions=0": r"--dask_npartitions to be 1 or more, got 0",
    "--dask_npartitions=2 --dask_partition_size=3": r"not allowed with argument",
}


@pytest.mark.parametrize(("options", "why"), DASK.items(), ids=DASK)
def test_wrong_dask_options_are_refused_with_the_expected_form(options, why):
    pytest.importorskip("distributed")
    with pytest.raises(ValueError, match=why):
        beam.check_options(f"--runner=DaskRunner {options}")


@pytest.mark.slow
def test_the_preflight_check_names_a_scheduler_that_does_not_answer():
    pytest.importorskip("distributed")
    options = "--runner=DaskRunner --dask_client_address=tcp://127.0.0.1:9 --dask_connection_timeout=1"
    with pytest.raises(ValueError, match=r"beam_options: no Dask scheduler answers at tcp://127.0.0.1:9 within 1 s"):
        preflight.run_checks({"beam_options": options})


def test_dask_partitions_hold_one_item_by_default():
    pytest.importorskip("distributed")
    assert beam.check_options("--runner Dask") == [f"--runner={beam.DASK}", "--dask_partition_size=1"]
    assert beam.check_options("--runner=Dask --dask_npartitions=2") == ["--dask_npartitions=2", f"--runner={beam.DASK}"]
