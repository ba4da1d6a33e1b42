"""The contract of push with Kubeflow."""

from kfp import dsl

from images.digests import STEPS_CPU


@dsl.component(base_image=STEPS_CPU, install_kfp_package=False)
def push(
    dataset: dsl.Input[dsl.Dataset],
    scorer: dsl.Input[dsl.Model],
    results: dsl.Input[dsl.Artifact],
    checks: dsl.Input[dsl.Artifact],
    workspace: str,
    models: str,
    name: str,
    consent: str,
    model_registry: str,
    images: dict,
) -> str:
    """Publish the scorer as a version with its model card and make it the champion.

    Returns the URI of the version.
    """
    from components.scorer.run.step_status import record_step

    with record_step("push", workspace) as run_paths:
        from itertools import islice

        from components.push.push import Provenance, push
        from components.scorer.data.photos import records

        origin = Provenance(
            dataset=dataset.path,
            checks=checks.path,
            sources={
                source: dataset.metadata.get(source, "") for source in ("photos", "ratings", "unlabelled", "attributes")
            },
            consent=consent,
            images=images,
        )
        photos = [record["photo"] for record in islice(records(dataset.path, "test"), 16)]
        return push(
            scorer.path, results=results.path, models=models, name=name, workspace=run_paths, provenance=origin,
            photos=photos, registry=model_registry,
        )  # fmt: skip
