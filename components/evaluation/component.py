"""The contract of evaluation with Kubeflow."""

from kfp import dsl

from images.digests import STEPS_CPU


@dsl.component(base_image=STEPS_CPU, install_kfp_package=False)
def evaluation(
    dataset: dsl.Input[dsl.Dataset],
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
    minimum_srcc: float,
    maximum_emd: float,
    minimum_spread: float,
    champion_margin: float,
    bootstrap: int,
    confidence: float,
    show_photos: bool,
    seed: int,
) -> bool:
    """Measure the scorer and the champion on the test split; returns whether every gate passed."""
    parameters = dict(locals())
    from components.scorer.journal import step

    with step("evaluation", workspace, report.uri) as place:
        from components.evaluation.evaluate import evaluate
        from components.scorer.settings import Evaluation, among, from_parameters

        found = evaluate(
            dataset.path, scorer.path, report.path,
            models=models, name=name, settings=from_parameters(Evaluation, **among(parameters, Evaluation)),
            workspace=place, revision=revision, results=results.path,
        )  # fmt: skip
        for metric, value in found.metrics.items():
            metrics.log_metric(metric, value)
        classes.log_confusion_matrix(found.categories, found.confusion)
        roc = found.roc
        if roc["threshold"]:  # empty when people call all test photos high, or all low
            classes.log_roc_curve(roc["false_positive_rate"], roc["true_positive_rate"], roc["threshold"])
        return found.passed
