"""The manifests are what Kubernetes and KServe take, fit each other, and confine what runs.

Plain kinds are checked against Kubernetes' own schemas, unknown fields refused, and KServe's by its package's models,
in the environment that ``make manifests`` makes.
"""

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
# Kubeflow Trainer's are checked in test_trainjob.
PLAIN = [(path, each) for path, each in EVERY if not re.search(r"kserve\.io|kubeflow\.org", each["apiVersion"])]
SERVICES = [document for _, document in EVERY if document["kind"] == "InferenceService"]


def named(pairs: list[tuple[Path, dict]]) -> list:
    return [
        pytest.param(document, id=f"{path.parent.name}/{document['kind']}-{document['metadata']['name']}")
        for path, document in pairs
    ]


def of(folder: str, kind: str) -> dict:
    (found,) = (each for path, each in EVERY if path.parent.name == folder and each["kind"] == kind)
    return found


def pods() -> list[dict]:
    """The specification of every pod: of Deployments, and of KServe's predictors."""
    plain = [each["spec"]["template"]["spec"] for _, each in PLAIN if each["kind"] == "Deployment"]
    return plain + [service["spec"]["predictor"] for service in SERVICES]


def containers() -> list[dict]:
    """Every container, those of canaries and of KServe's runtimes too."""
    predictors = [canary["predictor"] for each in SERVICES for canary in each["spec"]["canary"]]
    found = []
    for pod in pods() + predictors:
        found += [*pod.get("initContainers", []), *pod.get("containers", [])]
        found += [pod["model"]] if "model" in pod else []
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", named(PLAIN))
def test_a_plain_manifest_is_as_kubernetes_defines_its_kind(document, version):
    kubernetes_validate.validate(document, version, strict=True)


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
"""What KServe would refuse: a change of server.yaml, and what is said of it."""


@pytest.fixture(scope="module")
def checked(tmp_path_factory) -> list[str]:
    """What KServe's models say of our files and of broken copies, in one go: they take seconds to load."""
    if not KSERVE.exists():
        pytest.skip("run make manifests first: it makes .venv-kserve, with KServe's own models")
    folder = tmp_path_factory.mktemp("broken")
    text = (MANIFESTS / "kserve" / "server.yaml").read_text()
    for name, (change, _) in BROKEN.items():
        assert change[0] in text
        (folder / f"{name}.yaml").write_text(text.replace(*change))
    own = [path for path in FILES if any(each["kind"] == "InferenceService" for each in documents(path))]
    files = [*own, *sorted(folder.glob("*.yaml"))]
    command = [str(KSERVE), str(ROOT / "tests" / "builders" / "kserve_models.py"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_kserves_own_models_take_the_inference_services(checked):
    ours = {path.name for path in (MANIFESTS / "kserve").iterdir()}
    assert [line for line in checked if line.split(":")[0] in ours] == []


@pytest.mark.parametrize("name", BROKEN)
def test_the_check_of_inference_services_refuses_what_kserve_would(name, checked):
    said = [line for line in checked if line.startswith(f"{name}.yaml: ")]
    assert BROKEN[name][1] in " ".join(said)


@pytest.mark.parametrize("folder", ["serving", "schedule", "tensorflow-serving"])
def test_a_kustomization_lists_every_file_beside_it(folder):
    (own,) = documents(MANIFESTS / folder / "kustomization.yaml")
    assert own.keys() <= {"apiVersion", "kind", "resources", "images"}
    beside = {path.name for path in (MANIFESTS / folder).iterdir()} - {"kustomization.yaml"}
    assert sorted(own["resources"]) == sorted(beside)
    assert {each["name"] for each in own.get("images", [])} <= {container.get("image") for container in containers()}


def test_every_container_is_confined_and_asks_for_what_it_needs():
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
def test_selectors_and_ports_meet(folder):
    deployment, service = of(folder, "Deployment")["spec"], of(folder, "Service")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels == service["selector"]
    names = {port["name"] for port in deployment["template"]["spec"]["containers"][0]["ports"]}
    assert {port["targetPort"] for port in service["ports"]} <= names


def test_what_belongs_to_the_server_names_the_server():
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
    assert "replicas" not in deployment["spec"]  # it would undo the autoscaler's word at each apply


def specifications(value: object) -> list[dict]:
    """Every specification of a pod at any depth of a document: it holds containers, or is KServe's of a predictor."""
    if isinstance(value, list):
        return [found for each in value for found in specifications(each)]
    if not isinstance(value, dict):
        return []
    own = [value] if "containers" in value or "model" in value else []
    return own + [found for each in value.values() for found in specifications(each)]


@pytest.mark.parametrize("document", named(EVERY))
def test_no_pod_is_given_variables_that_are_named_after_services(document):
    found = specifications(document)
    pods = {"Deployment": 1, "CronJob": 1, "InferenceService": 2, "TrainingRuntime": 1}
    assert len(found) == pods.get(document["kind"], 0)
    assert all(each.get("enableServiceLinks") is False for each in found)


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service["metadata"]["name"])
def test_a_network_policy_chooses_the_pods_of_each_inference_service(service):
    (chosen,) = of("kserve", "NetworkPolicy")["spec"]["podSelector"]["matchExpressions"]
    assert (chosen["key"], chosen["operator"]) == ("serving.kserve.io/inferenceservice", "In")
    assert service["metadata"]["name"] in chosen["values"]


def test_a_network_policy_chooses_the_pods_of_tensorflow_serving_on_the_ports_that_it_has():
    pod = of("tensorflow-serving", "Deployment")["spec"]["template"]
    policy = of("tensorflow-serving", "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"] == pod["metadata"]["labels"]
    ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == ports


@pytest.mark.parametrize("policy", named([pair for pair in PLAIN if pair[1]["kind"] == "NetworkPolicy"]))
def test_every_network_policy_closes_both_ways_and_lets_names_of_hosts_be_asked(policy):
    spec = policy["spec"]
    assert sorted(spec["policyTypes"]) == ["Egress", "Ingress"]
    assert {"port": 53, "protocol": "UDP"} in [port for rule in spec["egress"] for port in rule["ports"]]
    assert all(rule.get("from") for rule in spec.get("ingress", []))


def test_the_account_of_the_steps_may_do_what_argo_and_kubeflow_need_and_nothing_else():
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
    bound = {
        each["subjects"][0]["name"]: (each["roleRef"]["kind"], each["roleRef"]["name"])
        for path, each in PLAIN
        if each["kind"] == "RoleBinding"
    }
    assert bound["portrait-scorer-steps"] == ("Role", role["metadata"]["name"])


def test_every_server_of_this_project_waits_for_the_secret_of_its_keys():
    for pod, container in servers():
        (name,) = [each["value"] for each in container["env"] if each["name"] == f"{VARIABLE_PREFIX}KEYS_FILE"]
        assert {"name": "keys", "mountPath": str(Path(name).parent), "readOnly": True} in container["volumeMounts"]
        if "volumes" in pod:  # a canary has its predictor's
            (secret,) = [volume["secret"] for volume in pod["volumes"] if volume["name"] == "keys"]
            assert secret == {"secretName": "portrait-scorer-keys"}


def test_every_mount_has_its_volume():
    for pod in pods():
        volumes = {volume["name"] for volume in pod["volumes"]}
        own = [*pod.get("initContainers", []), *pod.get("containers", []), *([pod["model"]] if "model" in pod else [])]
        assert {mount["name"] for container in own for mount in container["volumeMounts"]} == volumes


def test_a_pod_for_tensorflow_serving_fetches_the_champion_alone(tmp_path):
    models = tmp_path / "models" / "portraits"
    for version in (1, 2, 3):
        for name in ("saved_model.pb", "variables/variables.index", "bundle/scorer.keras", "portable/scorer.tflite"):
            (models / str(version) / name).parent.mkdir(parents=True, exist_ok=True)
            (models / str(version) / name).write_text(f"{name} of {version}")
        integrity.write_record(models / str(version), {})
    (models / "channels.json").write_text(json.dumps({"champion": 2}))
    pod = of("tensorflow-serving", "Deployment")["spec"]["template"]["spec"]
    (init,) = pod["initContainers"]
    place = {each["name"]: each["value"] for each in init["env"]}["FOLDER"]
    assert f"--model_base_path={place}" in pod["containers"][0]["args"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MODEL": str(models), "FOLDER": str(tmp_path / "own")}
    subprocess.run([sys.executable, "-c", *init["args"]], env=environment, check=True)
    files = {str(path.relative_to(tmp_path / "own")) for path in (tmp_path / "own").rglob("*") if path.is_file()}
    assert files == {"2/saved_model.pb", "2/variables/variables.index", "2/version.json"}


def servers() -> list[tuple[dict, dict]]:
    """Each pod of this project's server, and the server's container in it."""
    predictors = [canary["predictor"] for each in SERVICES for canary in each["spec"]["canary"]]
    found = []
    for pod in pods() + predictors:
        own = [each for each in pod.get("containers", []) if each["image"].startswith("portrait-scorer/serving")]
        found += [(pod, container) for container in own]
    return found


def test_the_servers_options_and_variables_are_settings_of_it():
    assert len(servers()) == 3  # plain, KServe's predictor and its canary
    for _, container in servers():
        environment = {each["name"]: each["value"] for each in container.get("env", [])}
        assert {name.removeprefix(VARIABLE_PREFIX).lower() for name in environment} <= {
            *ServerSettings.__dataclass_fields__,
            "keys_file",
        }
        given = supervisor.parse_settings(container.get("args", []))
        model = given.model or environment[f"{VARIABLE_PREFIX}MODEL"]
        workers = given.workers if container.get("args") else int(environment[f"{VARIABLE_PREFIX}WORKERS"])
        assert model == "gs://BUCKET/models/portraits"
        assert workers == int(container["resources"]["requests"]["cpu"])


def test_probes_and_prometheus_ask_what_the_server_answers():
    from images.serving.process.app import create_app

    paths = create_app(ServerSettings(model="models")).openapi()["paths"]
    for _, container in servers():
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert "get" in paths[container[probe]["httpGet"]["path"]]
            assert container[probe]["httpGet"]["port"] in {port["name"] for port in container["ports"]}
        assert container["ports"][0]["containerPort"] == ServerSettings.port


def test_prometheus_asks_where_no_key_is_asked_for_and_may_ask_there_alone():
    metrics = set()
    for _, container in servers():
        environment = {each["name"]: each["value"] for each in container.get("env", [])}
        assert f"{VARIABLE_PREFIX}KEYS_FILE" in environment
        port = supervisor.parse_settings(container.get("args", [])).metrics_port
        metrics.add(str(port or environment[f"{VARIABLE_PREFIX}METRICS_PORT"]))
    deployment, (service, *_) = of("serving", "Deployment"), SERVICES
    for annotated in (deployment["spec"]["template"], service):
        annotations = annotated["metadata"]["annotations"]
        assert {annotations["prometheus.io/port"]} == metrics
        assert annotations["prometheus.io/path"] == "/metrics"
    names = {port["name"]: port["containerPort"] for port in containers_of(deployment)[0]["ports"]}
    for folder in ("serving", "kserve"):
        rules = of(folder, "NetworkPolicy")["spec"]["ingress"]
        (own,) = [rule for rule in rules if "monitoring" in json.dumps(rule["from"])]
        assert len(own["from"]) == 1
        assert {str(names.get(port["port"], port["port"])) for port in own["ports"]} == metrics
        for rule in rules:
            told = {str(names.get(port["port"], port["port"])) for port in rule["ports"]}
            assert rule is own or not told & metrics


def containers_of(deployment: dict) -> list[dict]:
    return deployment["spec"]["template"]["spec"]["containers"]


def test_a_pod_is_killed_only_after_the_servers_drain_and_grace():
    for pod, container in servers():
        if "terminationGracePeriodSeconds" in pod:  # a canary has its predictor's
            (_, pause) = container["lifecycle"]["preStop"]["exec"]["command"]
            assert pod["terminationGracePeriodSeconds"] >= int(pause) + ServerSettings.drain + ServerSettings.grace + 5
