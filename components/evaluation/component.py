"""The contract of evaluation with Kubeflow."""

from kfp import dsl

from images.digests import STEPS_CPU


@dsl.component(base_image=STEPS_CPU, install_kfp_package=False)
def evaluation(
    dataset: dsl.Input[dsl.Dataset],
    checks: dsl.Input[dsl.Artifact],
    scorer: dsl.Input[dsl.Model],
    report: dsl.Output[dsl.HTML],
    results: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    classes: dsl.Output[dsl.ClassificationMetrics],
    workspace: str,
    models: str,
    name: str,
    revision: str,
    accuracy_threshold: float,
    bootstrap: int,
    confidence: float,
    minimum_test_photos: int,
    minimum_srcc: float,
    maximum_emd: float,
    minimum_spread: float,
    minimum_slope: float,
    minimum_outside: float,
    champion_mode: str,
    champion_margin: float,
    champion_margin_emd: float,
    significance: float,
    crossings: list,
    minimum_slice: int,
    minimum_slice_srcc: float,
    maximum_slice_gap: float,
    behaviour_photos: int,
    maximum_rise: float,
    behaviour_tolerance: float,
    perturbation_photos: int,
    perturbation_budget: float,
    maximum_perturbation: float,
    maximum_latency: float,
    maximum_size: float,
    show_photos: bool,
    seed: int,
    warn_only: list,
    force_publish: bool,
    force_reason: str,
) -> bool:
    """Evaluate the scorer on the test split; returns True if the gates let it be published."""
    parameters = dict(locals())
    from components.scorer.run.step_status import record_step

    with record_step("evaluation", workspace, report.uri) as run_paths:
        from components.evaluation.evaluate import evaluate
        from components.scorer.parameters import from_parameters, select_parameters
        from components.scorer.settings import Evaluation, Policy

        outputs = evaluate(
            dataset.path, scorer.path, report.path,
            models=models, name=name, settings=from_parameters(Evaluation, **select_parameters(parameters, Evaluation)),
            policy=from_parameters(Policy, **select_parameters(parameters, Policy)),
            workspace=run_paths, checks=checks.path, revision=revision, results=results.path,
        )  # fmt: skip
        for metric, value in outputs.metrics.items():
            metrics.log_metric(metric, value)
        classes.log_confusion_matrix(outputs.categories, outputs.confusion)
        roc = outputs.roc
        if roc["threshold"]:  # empty when people call all test photos high, or all low
            classes.log_roc_curve(roc["false_positive_rate"], roc["true_positive_rate"], roc["threshold"])
        return outputs.passed
