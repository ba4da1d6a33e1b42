"""The overlays as kustomize builds them: complete, confined, and consistent with the command line and the server."""

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

pytestmark = pytest.mark.slow

OVERLAYS = ("dev", "prod")
KINDS = {
    "ServiceAccount", "Role", "RoleBinding", "ConfigMap", "Service", "Deployment", "HorizontalPodAutoscaler",
    "PodDisruptionBudget", "NetworkPolicy", "CronJob",
}  # fmt: skip


def built(folder: Path) -> list[dict]:
    """Return the documents that kustomize builds from a folder."""
    command = next((tool for tool in (["kustomize", "build"], ["kubectl", "kustomize"]) if shutil.which(tool[0])), None)
    if command is None:
        pytest.skip("the overlays are built by kustomize, or kubectl: install one of them")
    process = subprocess.run([*command, str(folder)], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return list(yaml.safe_load_all(process.stdout))


@pytest.fixture(scope="module")
def overlays() -> dict[str, list[dict]]:
    return {name: built(MANIFESTS / "overlays" / name) for name in OVERLAYS}


@pytest.fixture(params=OVERLAYS)
def overlay(request, overlays) -> list[dict]:
    return overlays[request.param]


def of(documents: list[dict], kind: str, name: str = "") -> dict:
    (match,) = [
        document for document in documents if document["kind"] == kind and name in ("", document["metadata"]["name"])
    ]
    return match


def pods(documents: list[dict]) -> list[dict]:
    """Return the specification of every pod."""
    templates = [document["spec"] for document in documents if document["kind"] == "Deployment"]
    templates += [document["spec"]["jobTemplate"]["spec"] for document in documents if document["kind"] == "CronJob"]
    return [template["template"]["spec"] for template in templates]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_built_document_fits_kubernetes_schema(overlay, version):
    assert {document["kind"] for document in overlay} == KINDS
    for document in overlay:
        kubernetes_validate.validate(document, version, strict=True)


def test_each_overlay_has_its_own_namespace(overlays):
    namespaces = {
        name: {document["metadata"].get("namespace") for document in documents} for name, documents in overlays.items()
    }
    assert namespaces == {"dev": {"portraits-dev"}, "prod": {"portraits"}}


def test_every_pod_has_an_existing_account_and_is_confined_and_not_root(overlay):
    accounts = {document["metadata"]["name"] for document in overlay if document["kind"] == "ServiceAccount"}
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


def test_only_accounts_that_use_the_cloud_are_bound_to_a_cloud_account(overlay):
    accounts = {document["metadata"]["name"]: document for document in overlay if document["kind"] == "ServiceAccount"}
    cloud_accounts = {
        name: account["metadata"].get("annotations", {}).get("iam.gke.io/gcp-service-account")
        for name, account in accounts.items()
    }
    assert cloud_accounts.pop("portrait-scorer-schedules") is None
    assert set(cloud_accounts) == {"portrait-scorer", "portrait-scorer-steps"}
    for name, cloud_account in cloud_accounts.items():
        assert re.fullmatch(rf"{name}@PROJECT(-dev)?\.iam\.gserviceaccount\.com", cloud_account)


def test_dev_and_prod_share_no_bucket_and_no_cloud_account(overlays):
    resources = {
        name: set(re.findall(r"gs://[^/\s\"]+|[\w-]+@[\w.-]+", yaml.safe_dump_all(documents)))
        for name, documents in overlays.items()
    }
    assert len(resources["dev"]) == len(resources["prod"]) == 3
    assert not resources["dev"] & resources["prod"]


def test_every_image_of_this_project_is_the_releases(overlay):
    images = {container["image"] for pod in pods(overlay) for container in pod["containers"]}
    assert images == {digests.STEPS_CPU, digests.SERVING}


def test_the_images_of_the_manifests_are_those_of_the_digests():
    assert release.MANIFEST.read_text() == release.kustomize_component(release.DIGESTS.read_text())


def test_a_release_by_digest_reaches_every_pod(tmp_path):
    images = {
        name: f"registry.example:5000/team/{image}@sha256:{'ab' * 32}" for name, (image, _) in release.IMAGES.items()
    }
    text = release.with_pushed_images(
        release.DIGESTS.read_text(), {name: (image, "1.0.0-abc") for name, image in images.items()}
    )
    shutil.copytree(MANIFESTS, tmp_path / "manifests")
    (tmp_path / "manifests" / "release" / "kustomization.yaml").write_text(release.kustomize_component(text))
    documents = built(tmp_path / "manifests" / "overlays" / "prod")
    used_images = {container["image"] for pod in pods(documents) for container in pod["containers"]}
    assert used_images == {images["STEPS_CPU"], images["SERVING"]}


def job(documents: list[dict]) -> dict:
    (container,) = of(documents, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    return container


def test_the_cron_job_runs_a_command_that_the_command_line_accepts(overlay):
    container = job(overlay)
    python, dash, module, *words = container["command"]
    assert (python, dash, module) == ("python", "-m", "pipeline")
    values = {variable["name"]: variable.get("value", "portraits") for variable in container["env"]}
    arguments = [re.sub(r"\$\((\w+)\)", lambda name: values[name[1]], word) for word in (*words, *container["args"])]
    options = build_parser().parse_args(arguments)
    assert options.command.__name__ == "_schedule"
    assert options.version == values["VERSION"] != "NAME"
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(options.file.parent) in mounts
    assert str(Path(values["KF_PIPELINES_SA_TOKEN_PATH"]).parent) in mounts


def test_the_schedule_file_of_the_cron_job_has_valid_parameters_and_account(overlay, tmp_path):
    config = of(overlay, "ConfigMap")
    (tmp_path / "schedules.yaml").write_text(config["data"]["schedules.yaml"])
    (weekly,) = schedules.read(tmp_path / "schedules.yaml")
    assert weekly.service_account in {
        document["metadata"]["name"] for document in overlay if document["kind"] == "ServiceAccount"
    }
    volumes = of(overlay, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["volumes"]
    assert config["metadata"]["name"] in [volume.get("configMap", {}).get("name") for volume in volumes]
    assert weekly.paused is (config["metadata"]["namespace"] == "portraits-dev")


def test_the_server_serves_the_models_that_the_schedule_publishes(overlay, tmp_path):
    (tmp_path / "schedules.yaml").write_text(of(overlay, "ConfigMap")["data"]["schedules.yaml"])
    (weekly,) = schedules.read(tmp_path / "schedules.yaml")
    (container,) = of(overlay, "Deployment")["spec"]["template"]["spec"]["containers"]
    values = {
        variable["name"].removeprefix(VARIABLE_PREFIX).lower(): variable["value"] for variable in container["env"]
    }
    assert set(values) <= {*ServerSettings.__dataclass_fields__, "keys_file"}
    assert values["model"] == f"{weekly.parameters['models']}/portraits"
    assert int(values["workers"]) == int(container["resources"]["requests"]["cpu"])


def test_prod_survives_the_loss_of_a_zone_and_dev_is_small(overlays):
    min_replicas = {
        name: of(documents, "HorizontalPodAutoscaler")["spec"]["minReplicas"] for name, documents in overlays.items()
    }
    assert min_replicas == {"dev": 1, "prod": 3}
    constraints = of(overlays["prod"], "Deployment")["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert constraints[0]["topologyKey"] == "topology.kubernetes.io/zone"
    assert constraints[0]["whenUnsatisfiable"] == "DoNotSchedule"


def test_every_pod_has_its_own_network_policy(overlay):
    selectors = [
        document["spec"]["podSelector"]["matchLabels"] for document in overlay if document["kind"] == "NetworkPolicy"
    ]
    labels = [
        document["spec"]["template"]["metadata"]["labels"] for document in overlay if document["kind"] == "Deployment"
    ]
    cron = of(overlay, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    steps = dict([POD_LABEL])
    assert sorted(map(str, selectors)) == sorted(map(str, [*labels, cron, steps]))


def test_the_cron_job_may_reach_the_port_of_its_host(overlay):
    policy = of(overlay, "NetworkPolicy", "portrait-scorer-schedules")["spec"]
    (port,) = re.findall(r"--host=http://[\w.-]+:(\d+)", " ".join(job(overlay)["args"]))
    assert int(port) in {port["port"] for rule in policy["egress"] for port in rule["ports"]}
