"""The overlays, as kustomize builds them: complete, confined, and in step with the command line and the server."""

import re
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from images import digests, release
from images.serving.settings import VARIABLE_PREFIX, ServerSettings
from pipeline.cli.main import build_parser
from pipeline.kubeflow import schedules
from pipeline.resources import POD_LABEL
from tests.builders.manifests import MANIFESTS, ROOT, VERSIONS

OVERLAYS = ("dev", "prod")
KINDS = {
    "ServiceAccount", "Role", "RoleBinding", "ConfigMap", "Service", "Deployment", "HorizontalPodAutoscaler",
    "PodDisruptionBudget", "NetworkPolicy", "CronJob",
}  # fmt: skip


def built(folder: Path) -> list[dict]:
    """What kustomize makes of a folder."""
    command = next(
        (words for words in (["kustomize", "build"], ["kubectl", "kustomize"]) if shutil.which(words[0])), None
    )
    if command is None:
        pytest.skip("the overlays are built by kustomize, or kubectl: install one of them")
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def overlays() -> dict[str, list[dict]]:
    return {name: built(MANIFESTS / "overlays" / name) for name in OVERLAYS}


@pytest.fixture(params=OVERLAYS)
def overlay(request, overlays) -> list[dict]:
    return overlays[request.param]


def of(documents: list[dict], kind: str, name: str = "") -> dict:
    (found,) = [each for each in documents if each["kind"] == kind and name in ("", each["metadata"]["name"])]
    return found


def pods(documents: list[dict]) -> list[dict]:
    """The specification of every pod."""
    templates = [each["spec"] for each in documents if each["kind"] == "Deployment"]
    templates += [each["spec"]["jobTemplate"]["spec"] for each in documents if each["kind"] == "CronJob"]
    return [each["template"]["spec"] for each in templates]


@pytest.mark.parametrize("version", VERSIONS)
def test_all_that_is_built_is_as_kubernetes_defines_it(overlay, version):
    assert {each["kind"] for each in overlay} == KINDS
    for document in overlay:
        kubernetes_validate.validate(document, version, strict=True)


def test_all_of_an_overlay_lies_in_a_namespace_of_its_own(overlays):
    places = {name: {each["metadata"].get("namespace") for each in found} for name, found in overlays.items()}
    assert places == {"dev": {"portraits-dev"}, "prod": {"portraits"}}


def test_every_pod_runs_as_an_account_that_is_there_confined_and_not_as_root(overlay):
    accounts = {each["metadata"]["name"] for each in overlay if each["kind"] == "ServiceAccount"}
    (user,) = set(re.findall(r"^USER (\d+):\1$", (ROOT / "images/steps/Dockerfile").read_text(), re.MULTILINE))
    for pod in pods(overlay):
        assert pod["serviceAccountName"] in accounts
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == int(user)
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_who_touches_the_cloud_is_known_to_it_and_who_keeps_schedules_is_not(overlay):
    accounts = {each["metadata"]["name"]: each for each in overlay if each["kind"] == "ServiceAccount"}
    trusted = {
        name: account["metadata"].get("annotations", {}).get("iam.gke.io/gcp-service-account")
        for name, account in accounts.items()
    }
    assert trusted.pop("portrait-scorer-schedules") is None
    assert set(trusted) == {"portrait-scorer", "portrait-scorer-steps"}
    for name, account in trusted.items():
        assert re.fullmatch(rf"{name}@PROJECT(-dev)?\.iam\.gserviceaccount\.com", account)


def test_dev_and_prod_share_no_bucket_and_no_account_of_the_cloud(overlays):
    places = {
        name: set(re.findall(r"gs://[^/\s\"]+|[\w-]+@[\w.-]+", yaml.safe_dump_all(found)))
        for name, found in overlays.items()
    }
    assert len(places["dev"]) == len(places["prod"]) == 3
    assert not places["dev"] & places["prod"]


def test_every_image_of_this_project_is_the_releases(overlay):
    used = {container["image"] for pod in pods(overlay) for container in pod["containers"]}
    assert used == {digests.STEPS_CPU, digests.SERVING}


def test_the_images_of_the_manifests_are_those_of_the_digests():
    assert release.MANIFEST.read_text() == release.kustomize_component(release.DIGESTS.read_text())


def test_a_release_by_digest_reaches_every_pod(tmp_path):
    images = {
        name: f"registry.example:5000/team/{each}@sha256:{'ab' * 32}" for name, (each, _) in release.IMAGES.items()
    }
    text = release.with_pushed_images(
        release.DIGESTS.read_text(), {name: (image, "1.0.0-abc") for name, image in images.items()}
    )
    shutil.copytree(MANIFESTS, tmp_path / "manifests")
    (tmp_path / "manifests" / "release" / "kustomization.yaml").write_text(release.kustomize_component(text))
    found = built(tmp_path / "manifests" / "overlays" / "prod")
    used = {container["image"] for pod in pods(found) for container in pod["containers"]}
    assert used == {images["STEPS_CPU"], images["SERVING"]}


def job(documents: list[dict]) -> dict:
    (container,) = of(documents, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    return container


def test_the_job_runs_a_command_that_the_command_line_takes(overlay):
    container = job(overlay)
    python, dash, module, *words = container["command"]
    assert (python, dash, module) == ("python", "-m", "pipeline")
    values = {each["name"]: each.get("value", "portraits") for each in container["env"]}
    given = [re.sub(r"\$\((\w+)\)", lambda name: values[name[1]], word) for word in (*words, *container["args"])]
    options = build_parser().parse_args(given)
    assert options.command.__name__ == "_schedule"
    assert options.version == values["VERSION"] != "NAME"
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(options.file.parent) in mounts
    assert str(Path(values["KF_PIPELINES_SA_TOKEN_PATH"]).parent) in mounts


def test_the_jobs_file_is_of_schedules_whose_parameters_and_account_are_right(overlay, tmp_path):
    config = of(overlay, "ConfigMap")
    (tmp_path / "schedules.yaml").write_text(config["data"]["schedules.yaml"])
    (weekly,) = schedules.read(tmp_path / "schedules.yaml")
    assert weekly.service_account in {each["metadata"]["name"] for each in overlay if each["kind"] == "ServiceAccount"}
    volumes = of(overlay, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["volumes"]
    assert config["metadata"]["name"] in [volume.get("configMap", {}).get("name") for volume in volumes]
    assert weekly.paused is (config["metadata"]["namespace"] == "portraits-dev")


def test_the_server_answers_from_the_models_that_the_schedule_publishes(overlay, tmp_path):
    (tmp_path / "schedules.yaml").write_text(of(overlay, "ConfigMap")["data"]["schedules.yaml"])
    (weekly,) = schedules.read(tmp_path / "schedules.yaml")
    (container,) = of(overlay, "Deployment")["spec"]["template"]["spec"]["containers"]
    values = {each["name"].removeprefix(VARIABLE_PREFIX).lower(): each["value"] for each in container["env"]}
    assert set(values) <= {*ServerSettings.__dataclass_fields__, "keys_file"}
    assert values["model"] == f"{weekly.parameters['models']}/portraits"
    assert int(values["workers"]) == int(container["resources"]["requests"]["cpu"])


def test_prod_withstands_the_loss_of_a_zone_and_dev_is_small(overlays):
    least = {name: of(found, "HorizontalPodAutoscaler")["spec"]["minReplicas"] for name, found in overlays.items()}
    assert least == {"dev": 1, "prod": 3}
    spread = of(overlays["prod"], "Deployment")["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert spread[0]["topologyKey"] == "topology.kubernetes.io/zone"
    assert spread[0]["whenUnsatisfiable"] == "DoNotSchedule"


def test_every_pod_has_a_network_policy_of_its_own(overlay):
    chosen = [each["spec"]["podSelector"]["matchLabels"] for each in overlay if each["kind"] == "NetworkPolicy"]
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in overlay if each["kind"] == "Deployment"]
    cron = of(overlay, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    steps = dict([POD_LABEL])
    assert sorted(map(str, chosen)) == sorted(map(str, [*labels, cron, steps]))


def test_the_job_may_ask_the_port_that_it_asks(overlay):
    policy = of(overlay, "NetworkPolicy", "portrait-scorer-schedules")["spec"]
    (host,) = re.findall(r"--host=http://[\w.-]+:(\d+)", " ".join(job(overlay)["args"]))
    assert int(host) in {port["port"] for rule in policy["egress"] for port in rule["ports"]}
