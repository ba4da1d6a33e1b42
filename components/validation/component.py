"""The contract of validation with Kubeflow."""

from kfp import dsl

from images.digests import STEPS_CPU


@dsl.component(base_image=STEPS_CPU, install_kfp_package=False)
def validation(
    dataset: dsl.Input[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    checks: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    workspace: str,
    models: str,
    name: str,
    minimum_new_labels: int,
    maximum_label_drift: float,
    maximum_photo_drift: float,
    duplicate_distance: int,
    warn_only: list,
    force_publish: bool,
    force_reason: str,
) -> bool:
    """Compare the data set with the champion's, and search it for leakage between splits.

    Returns True if training is worth its cost.
    """
    parameters = dict(locals())
    from components.scorer.run.step_status import record_step

    with record_step("validation", workspace, report.uri) as run_paths:
        from components.scorer.parameters import from_parameters, select_parameters
        from components.scorer.settings import Policy, Validation
        from components.validation.validate import validate

        outputs = validate(
            dataset.path, checks.path, report.path,
            models=models, name=name, settings=from_parameters(Validation, **select_parameters(parameters, Validation)),
            policy=from_parameters(Policy, **select_parameters(parameters, Policy)),
            workspace=run_paths, duplicate_distance=duplicate_distance,
        )  # fmt: skip
        for metric, value in outputs.metrics.items():
            metrics.log_metric(metric, value)
        return outputs.should_train
