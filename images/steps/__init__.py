"""Image of the pipeline's steps. Its command ``train`` implements SageMaker's training contract."""
