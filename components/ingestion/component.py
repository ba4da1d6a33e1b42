"""The contract of ingestion with Kubeflow."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from images.digests import STEPS_CPU


@dsl.component(base_image=STEPS_CPU, install_kfp_package=False)
def ingestion(
    dataset: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    photos: str,
    ratings: str,
    unlabelled: str,
    attributes: str,
    workspace: str,
    models: str,
    weights: str,
    norms: str,
    face_detector: str,
    face_detector_sha256: str,
    face_embedder: str,
    face_embedder_sha256: str,
    face_preprocessing: str,
    face_layers: list,
    face_scales: list,
    face_precision: str,
    face_mirror: bool,
    show_photos: bool,
    rating_format: str,
    rating_scale: str,
    ava_tags: list,
    minimum_raters: int,
    rater_std: float,
    minimum_side: int,
    maximum_pixels: int,
    shorter_side: int,
    jpeg_quality: int,
    maximum_left_out: float,
    validation_share: float,
    test_share: float,
    duplicate_distance: int,
    beam_options: str,
    accelerator: str,
    accelerator_count: str,
    node_selector: dict,
) -> str:
    """Make a checked, grouped, split data set of photos and ratings; returns the data set's fingerprint.

    What later steps are going to need is looked at first, while nothing has been paid for but this step's CPUs.
    """
    parameters = dict(locals())
    from components.scorer.run.step_status import record_step

    with record_step("ingestion", workspace, report.uri) as run_paths:
        from components.ingestion.ingest import ingest
        from components.scorer.parameters import from_parameters, select_parameters
        from components.scorer.run.preflight import run_checks
        from components.scorer.settings import Faces, Ingestion

        settings = from_parameters(Ingestion, **select_parameters(parameters, Ingestion))
        faces = from_parameters(Faces, **select_parameters(parameters, Faces))
        for line in run_checks(parameters, dataset.path):
            if line.startswith("accelerator"):  # what is right is no news, what the cluster has at the moment is
                print(f"ingestion: {line}", flush=True)
        summary = ingest(
            photos, ratings, dataset.path, report.path,
            unlabelled=unlabelled, attributes=attributes, workspace=run_paths, settings=settings,
            faces=faces, show_photos=show_photos,
        )  # fmt: skip
        dataset.metadata.update(photos=photos, ratings=ratings, unlabelled=unlabelled, attributes=attributes)
        fingerprint = summary.pop("fingerprint")
        for name, value in summary.items():
            metrics.log_metric(name, value)
        return fingerprint


def examine(parameters: Mapping[str, Any]) -> str:
    """Check, before anything runs, that the photos and ratings of a run go together.

    Args:
        parameters: Pipeline parameters; a missing one takes its default.

    Returns:
        One sentence that says how many photos, ratings and attributes were found.

    Raises:
        FileNotFoundError: An input does not exist.
        ValueError: The ratings cannot be used; the message is that of the ingestion step.
    """
    from components.ingestion.ingest import check_inputs
    from components.scorer.parameters import from_parameters, select_parameters
    from components.scorer.settings import Ingestion

    photos, ratings, unlabelled, attributes = (
        parameters.get(name, "") for name in ("photos", "ratings", "unlabelled", "attributes")
    )
    settings = from_parameters(Ingestion, **select_parameters(dict(parameters), Ingestion))
    return check_inputs(photos, ratings, unlabelled, attributes, settings)
