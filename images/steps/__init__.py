"""What runs in the image of the steps besides the steps: SageMaker's training contract."""
