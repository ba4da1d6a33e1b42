"""The manifests are valid for Kubernetes and KServe, agree with each other, and confine their pods.

Plain kinds are checked against Kubernetes' own schemas, with unknown fields refused. KServe's kinds are checked by its
package's models, in the environment that ``make manifests`` makes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from components.scorer.registry import integrity
from images.serving.process import supervisor
from images.serving.settings import VARIABLE_PREFIX, ServerSettings
from tests.builders.manifests import MANIFESTS, ROOT, VERSIONS

KSERVE = ROOT / ".venv-kserve" / "bin" / "python"


def documents(path: Path) -> list[dict]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


FILES = sorted(
    path for path in MANIFESTS.rglob("*.yaml") if path.name != "kustomization.yaml" and "overlays" not in path.parts
)
EVERY = [(path, document) for path in FILES for document in documents(path)]
# Kubeflow Trainer's kinds are checked in test_trainjob.
PLAIN = [
    (path, document) for path, document in EVERY if not re.search(r"kserve\.io|kubeflow\.org", document["apiVersion"])
]
SERVICES = [document for _, document in EVERY if document["kind"] == "InferenceService"]


def named(pairs: list[tuple[Path, dict]]) -> list:
    return [
        pytest.param(document, id=f"{path.parent.name}/{document['kind']}-{document['metadata']['name']}")
        for path, document in pairs
    ]


def of(folder: str, kind: str) -> dict:
    (match,) = (document for path, document in EVERY if path.parent.name == folder and document["kind"] == kind)
    return match


def pods() -> list[dict]:
    """Return the pod specifications of Deployments and of KServe's predictors."""
    plain = [document["spec"]["template"]["spec"] for _, document in PLAIN if document["kind"] == "Deployment"]
    return plain + [service["spec"]["predictor"] for service in SERVICES]


def containers() -> list[dict]:
    """Return every container, including those of canaries and of KServe's runtimes."""
    predictors = [canary["predictor"] for service in SERVICES for canary in service["spec"]["canary"]]
    specs = []
    for pod in pods() + predictors:
        specs += [*pod.get("initContainers", []), *pod.get("containers", [])]
        specs += [pod["model"]] if "model" in pod else []
    return specs


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", named(PLAIN))
def test_a_plain_manifest_fits_kubernetes_schema(document, version):
    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [{"replica": 2}, {"revisionHistoryLimit": "five"}])
def test_the_check_refuses_unknown_fields_and_wrong_types(wrong):
    deployment = of("serving", "Deployment")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            {**deployment, "spec": {**deployment["spec"], **wrong}}, VERSIONS[-1], strict=True
        )  # fmt: skip


BROKEN = {
    "unknown": (("trafficPercent: 10", "trafficPercentage: 10"), "V1beta1CanarySpec has no field 'trafficPercentage'"),
    "type": (("minReplicas: 2", "minReplicas: two"), "minReplicas: expected int, got 'two'"),
    "deep": (("readOnlyRootFilesystem: true", "readOnly: true"), "V1SecurityContext has no field 'readOnly'"),
    "nameless": (("name: challenger", "priority: 1"), "canary: expected a name of its own for each, got [None]"),
    "traffic": (("trafficPercent: 10", "trafficPercent: 101"), "canary: expected at most 100 % of traffic, got 101"),
    "mode": (("Mode: Standard", "Mode: Knative"), "canary: expected the deployment mode Standard, got Knative"),
}
"""Manifests that KServe would refuse: a change of server.yaml, and the message."""


@pytest.fixture(scope="module")
def checked(tmp_path_factory) -> list[str]:
    """Return the messages of KServe's models about our files and broken copies; one process checks all files."""
    if not KSERVE.exists():
        pytest.skip("run make manifests first: it makes .venv-kserve, with KServe's own models")
    folder = tmp_path_factory.mktemp("broken")
    text = (MANIFESTS / "kserve" / "server.yaml").read_text()
    for name, (change, _) in BROKEN.items():
        assert change[0] in text
        (folder / f"{name}.yaml").write_text(text.replace(*change))
    inference_services = [
        path for path in FILES if any(document["kind"] == "InferenceService" for document in documents(path))
    ]
    files = [*inference_services, *sorted(folder.glob("*.yaml"))]
    command = [str(KSERVE), str(ROOT / "tests" / "builders" / "kserve_models.py"), *map(str, files)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 1, process.stdout + process.stderr
    return process.stdout.splitlines()


@pytest.mark.slow
def test_kserves_models_accept_the_inference_services(checked):
    file_names = {path.name for path in (MANIFESTS / "kserve").iterdir()}
    assert [line for line in checked if line.split(":")[0] in file_names] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_the_check_of_inference_services_refuses_what_kserve_would_refuse(name, checked):
    messages = [line for line in checked if line.startswith(f"{name}.yaml: ")]
    assert BROKEN[name][1] in " ".join(messages)


@pytest.mark.parametrize("folder", ["serving", "schedule", "tensorflow-serving"])
def test_a_kustomization_lists_every_file_in_its_folder(folder):
    (kustomization,) = documents(MANIFESTS / folder / "kustomization.yaml")
    assert kustomization.keys() <= {"apiVersion", "kind", "resources", "images"}
    file_names = {path.name for path in (MANIFESTS / folder).iterdir()} - {"kustomization.yaml"}
    assert sorted(kustomization["resources"]) == sorted(file_names)
    assert {image["name"] for image in kustomization.get("images", [])} <= {
        container.get("image") for container in containers()
    }


def test_every_container_is_confined_and_requests_resources():
    for container in containers():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert container["resources"]["limits"].keys() == {"memory"}


def test_every_pod_runs_as_the_images_user_who_is_not_root():
    (user,) = set(re.findall(r"^USER (\d+):\1$", (ROOT / "images/serving/Dockerfile").read_text(), re.MULTILINE))
    for pod in pods():
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": int(user),
            "runAsGroup": int(user),
            "fsGroup": int(user),
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert pod["serviceAccountName"] == of("serving", "ServiceAccount")["metadata"]["name"]


@pytest.mark.parametrize("folder", ["serving", "tensorflow-serving"])
def test_selectors_and_ports_agree(folder):
    deployment, service = of(folder, "Deployment")["spec"], of(folder, "Service")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels == service["selector"]
    names = {port["name"] for port in deployment["template"]["spec"]["containers"][0]["ports"]}
    assert {port["targetPort"] for port in service["ports"]} <= names


def test_policies_and_the_autoscaler_select_the_servers_deployment():
    deployment = of("serving", "Deployment")
    labels = deployment["spec"]["selector"]["matchLabels"]
    assert of("serving", "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    policy = of("serving", "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert policy["ingress"][0]["ports"][0]["port"] in {
        port["name"] for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]
    }
    target = of("serving", "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    assert "replicas" not in deployment["spec"]  # a number of replicas would undo the autoscaler at each apply


def specifications(value: object) -> list[dict]:
    """Return every pod specification at any depth of a document: one with containers, or a KServe predictor."""
    if isinstance(value, list):
        return [spec for item in value for spec in specifications(item)]
    if not isinstance(value, dict):
        return []
    specs = [value] if "containers" in value or "model" in value else []
    return specs + [spec for item in value.values() for spec in specifications(item)]


@pytest.mark.parametrize("document", named(EVERY))
def test_no_pod_gets_environment_variables_of_services(document):
    specs = specifications(document)
    pods = {"Deployment": 1, "CronJob": 1, "InferenceService": 2, "TrainingRuntime": 1}
    assert len(specs) == pods.get(document["kind"], 0)
    assert all(spec.get("enableServiceLinks") is False for spec in specs)


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service["metadata"]["name"])
def test_a_network_policy_selects_the_pods_of_each_inference_service(service):
    (selector,) = of("kserve", "NetworkPolicy")["spec"]["podSelector"]["matchExpressions"]
    assert (selector["key"], selector["operator"]) == ("serving.kserve.io/inferenceservice", "In")
    assert service["metadata"]["name"] in selector["values"]


def test_a_network_policy_selects_the_pods_of_tensorflow_serving_and_their_ports():
    pod = of("tensorflow-serving", "Deployment")["spec"]["template"]
    policy = of("tensorflow-serving", "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"] == pod["metadata"]["labels"]
    ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == ports


@pytest.mark.parametrize("policy", named([pair for pair in PLAIN if pair[1]["kind"] == "NetworkPolicy"]))
def test_every_network_policy_covers_both_directions_and_allows_dns(policy):
    spec = policy["spec"]
    assert sorted(spec["policyTypes"]) == ["Egress", "Ingress"]
    assert {"port": 53, "protocol": "UDP"} in [port for rule in spec["egress"] for port in rule["ports"]]
    assert all(rule.get("from") for rule in spec.get("ingress", []))


def test_the_account_of_the_steps_has_only_the_rights_that_argo_and_kubeflow_need():
    role = of("schedule", "Role")
    allowed = {
        (group, resource, verb, *rule.get("resourceNames", []))
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert allowed == {
        ("argoproj.io", "workflowtaskresults", "create"),
        ("argoproj.io", "workflowtaskresults", "patch"),
        ("", "configmaps", "get", "kfp-launcher"),
        ("", "secrets", "get", "mlpipeline-minio-artifact"),
        ("", "resourcequotas", "list"),
    }
    role_bindings = {
        document["subjects"][0]["name"]: (document["roleRef"]["kind"], document["roleRef"]["name"])
        for path, document in PLAIN
        if document["kind"] == "RoleBinding"
    }
    assert role_bindings["portrait-scorer-steps"] == ("Role", role["metadata"]["name"])


def test_every_server_mounts_the_secret_of_its_keys():
    for pod, container in servers():
        (name,) = [
            variable["value"] for variable in container["env"] if variable["name"] == f"{VARIABLE_PREFIX}KEYS_FILE"
        ]
        assert {"name": "keys", "mountPath": str(Path(name).parent), "readOnly": True} in container["volumeMounts"]
        if "volumes" in pod:  # a canary shares its predictor's volumes
            (secret,) = [volume["secret"] for volume in pod["volumes"] if volume["name"] == "keys"]
            assert secret == {"secretName": "portrait-scorer-keys"}


def test_every_mount_has_its_volume():
    for pod in pods():
        volumes = {volume["name"] for volume in pod["volumes"]}
        pod_containers = [
            *pod.get("initContainers", []),
            *pod.get("containers", []),
            *([pod["model"]] if "model" in pod else []),
        ]
        assert {mount["name"] for container in pod_containers for mount in container["volumeMounts"]} == volumes


@pytest.mark.slow
def test_a_pod_of_tensorflow_serving_downloads_the_champion_only(tmp_path):
    models = tmp_path / "models" / "portraits"
    for version in (1, 2, 3):
        for name in ("saved_model.pb", "variables/variables.index", "bundle/scorer.keras", "portable/scorer.tflite"):
            (models / str(version) / name).parent.mkdir(parents=True, exist_ok=True)
            (models / str(version) / name).write_text(f"{name} of {version}")
        integrity.write_record(models / str(version), {})
    (models / "channels.json").write_text(json.dumps({"champion": 2}))
    pod = of("tensorflow-serving", "Deployment")["spec"]["template"]["spec"]
    (init,) = pod["initContainers"]
    folder = {variable["name"]: variable["value"] for variable in init["env"]}["FOLDER"]
    assert f"--model_base_path={folder}" in pod["containers"][0]["args"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MODEL": str(models), "FOLDER": str(tmp_path / "own")}
    subprocess.run([sys.executable, "-c", *init["args"]], env=environment, check=True)
    files = {str(path.relative_to(tmp_path / "own")) for path in (tmp_path / "own").rglob("*") if path.is_file()}
    assert files == {"2/saved_model.pb", "2/variables/variables.index", "2/version.json"}


def servers() -> list[tuple[dict, dict]]:
    """Return each pod with this project's server, and the server's container."""
    predictors = [canary["predictor"] for service in SERVICES for canary in service["spec"]["canary"]]
    pairs = []
    for pod in pods() + predictors:
        server_containers = [
            container
            for container in pod.get("containers", [])
            if container["image"].startswith("portrait-scorer/serving")
        ]
        pairs += [(pod, container) for container in server_containers]
    return pairs


def test_the_servers_options_and_variables_are_known_settings():
    assert len(servers()) == 3  # the plain one, KServe's predictor and its canary
    for _, container in servers():
        environment = {variable["name"]: variable["value"] for variable in container.get("env", [])}
        assert {name.removeprefix(VARIABLE_PREFIX).lower() for name in environment} <= {
            *ServerSettings.__dataclass_fields__,
            "keys_file",
        }
        settings = supervisor.parse_settings(container.get("args", []))
        model = settings.model or environment[f"{VARIABLE_PREFIX}MODEL"]
        workers = settings.workers if container.get("args") else int(environment[f"{VARIABLE_PREFIX}WORKERS"])
        assert model == "gs://BUCKET/models/portraits"
        assert workers == int(container["resources"]["requests"]["cpu"])


def test_probes_ask_routes_and_ports_that_the_server_has():
    from images.serving.process.app import create_app

    paths = create_app(ServerSettings(model="models")).openapi()["paths"]
    for _, container in servers():
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert "get" in paths[container[probe]["httpGet"]["path"]]
            assert container[probe]["httpGet"]["port"] in {port["name"] for port in container["ports"]}
        assert container["ports"][0]["containerPort"] == ServerSettings.port


def test_prometheus_scrapes_the_keyless_port_and_may_reach_no_other():
    metrics = set()
    for _, container in servers():
        environment = {variable["name"]: variable["value"] for variable in container.get("env", [])}
        assert f"{VARIABLE_PREFIX}KEYS_FILE" in environment
        port = supervisor.parse_settings(container.get("args", [])).metrics_port
        metrics.add(str(port or environment[f"{VARIABLE_PREFIX}METRICS_PORT"]))
    deployment, (service, *_) = of("serving", "Deployment"), SERVICES
    for resource in (deployment["spec"]["template"], service):
        annotations = resource["metadata"]["annotations"]
        assert {annotations["prometheus.io/port"]} == metrics
        assert annotations["prometheus.io/path"] == "/metrics"
    names = {port["name"]: port["containerPort"] for port in containers_of(deployment)[0]["ports"]}
    for folder in ("serving", "kserve"):
        rules = of(folder, "NetworkPolicy")["spec"]["ingress"]
        (monitoring_rule,) = [rule for rule in rules if "monitoring" in json.dumps(rule["from"])]
        assert len(monitoring_rule["from"]) == 1
        assert {str(names.get(port["port"], port["port"])) for port in monitoring_rule["ports"]} == metrics
        for rule in rules:
            rule_ports = {str(names.get(port["port"], port["port"])) for port in rule["ports"]}
            assert rule is monitoring_rule or not rule_ports & metrics


def containers_of(deployment: dict) -> list[dict]:
    return deployment["spec"]["template"]["spec"]["containers"]


def test_a_pod_is_killed_only_after_the_servers_drain_and_grace():
    for pod, container in servers():
        if "terminationGracePeriodSeconds" in pod:  # a canary shares its predictor's period
            (_, pause) = container["lifecycle"]["preStop"]["exec"]["command"]
            assert pod["terminationGracePeriodSeconds"] >= int(pause) + ServerSettings.drain + ServerSettings.grace + 5
