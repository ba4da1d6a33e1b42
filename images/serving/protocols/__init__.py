"""Protocols of the server: its own API, TensorFlow Serving (KServe v1), Open Inference (KServe v2) and SageMaker."""
