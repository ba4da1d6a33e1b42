"""The contract of training with Kubeflow."""

from kfp import dsl

from images.digests import STEPS_GPU


@dsl.component(base_image=STEPS_GPU, install_kfp_package=False)
def training(
    dataset: dsl.Input[dsl.Dataset],
    encoder: dsl.Input[dsl.Model],
    scorer: dsl.Output[dsl.Model],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    fingerprint: str,
    encoder_run: str,
    workspace: str,
    resume: str,
    accelerator: str,
    accelerator_count: str,
    revision: str,
    fitting: str,
    pairs: int,
    dropout: float,
    head_epochs: int,
    head_learning_rate: float,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    averaging: float,
    correlation_term: float,
    rank_term: float,
    rater_weighting: bool,
    rater_smoothing: bool,
    scale: int,
    camera_faults: float,
    embedding_size: int,
    face_view: bool,
    face_view_scale: float,
    job: str,
    minimum_job: int,
    norms: str,
    mixed_precision: bool,
    devices: str,
    seed: int,
):
    """Fit the score head on a pretrained encoder, then the whole network.

    The encoder's run is not read: the execution cache knows artifacts by name only, so that without it a scorer
    of another encoder would be taken from the cache.
    """
    parameters = dict(locals())
    from components.scorer.run.step_status import record_step

    with record_step("training", workspace, report.uri) as run_paths:
        from components.scorer.run.accelerators import require_accelerators

        require_accelerators(accelerator, accelerator_count)

        from components.scorer.parameters import from_parameters, select_parameters
        from components.scorer.run.paths import RunPaths
        from components.scorer.settings import Training
        from components.training.train import train

        results = train(
            dataset.path, encoder.path, scorer.path, report.path,
            settings=from_parameters(Training, **select_parameters(parameters, Training)),
            checkpoints=RunPaths(workspace, resume or run_paths.run).checkpoints("training"),
            revision=revision, fingerprint=fingerprint,
        )  # fmt: skip
        for name, value in results.items():
            metrics.log_metric(name, value)
