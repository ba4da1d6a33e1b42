"""The protocols that the server speaks: its own, TensorFlow Serving's v1, Open Inference v2, SageMaker's."""
