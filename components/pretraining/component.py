"""The contract of pretraining with Kubeflow."""

from kfp import dsl

from images.digests import STEPS_GPU


@dsl.component(base_image=STEPS_GPU, install_kfp_package=False)
def pretraining(
    dataset: dsl.Input[dsl.Dataset],
    encoder: dsl.Output[dsl.Model],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    fingerprint: str,
    workspace: str,
    resume: str,
    accelerator: str,
    accelerator_count: str,
    start: str,
    weights: str,
    weights_sha256: str,
    backbone: str,
    backbone_options: dict,
    scaling: str,
    scale: int,
    crop: int,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    noise: float,
    seed: int,
    show_photos: bool,
) -> str:
    """Pretrain an encoder on unlabelled photos.

    Returns the id of the run that trained the encoder; a cached step returns the id of the original run.
    """
    parameters = dict(locals())
    from components.scorer.run.step_status import record_step

    with record_step("pretraining", workspace, report.uri) as run_paths:
        from components.scorer.run.accelerators import require_accelerators

        require_accelerators(accelerator, accelerator_count)

        from components.pretraining.pretrain import pretrain
        from components.scorer.parameters import from_parameters, select_parameters
        from components.scorer.run.paths import RunPaths
        from components.scorer.settings import Pretraining

        results = pretrain(
            dataset.path, encoder.path, report.path,
            settings=from_parameters(Pretraining, **select_parameters(parameters, Pretraining)), scale=scale,
            checkpoints=RunPaths(workspace, resume or run_paths.run).checkpoints("pretraining"),
            fingerprint=fingerprint, show_photos=show_photos,
        )  # fmt: skip
        for name, value in results.items():
            metrics.log_metric(name, value)
        return run_paths.run
