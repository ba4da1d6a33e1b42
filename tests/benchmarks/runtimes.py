"""Rates of the runtimes that could serve the published network: ``python -m tests.benchmarks.runtimes``.

Each runtime scores with Keras's own export of the default network, in its own process and on one thread. Measured are
photos a second, singly and in batches of four; the largest difference of a mean score from Keras's; seconds from
loading the library to the first score; and resident memory. Several interleaved rounds; the medians are printed, with
each rate relative to the SavedModel's.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

ROUNDS, PHOTOS, TOGETHER = 3, 96, 4

Run = Callable[[np.ndarray], np.ndarray]


def export(folder: Path) -> None:
    """Export the default network with random weights for every runtime; save photos and scores."""
    from components.scorer.model import serving_outputs
    from components.scorer.model.encoder import build_encoder
    from components.scorer.model.network import build_scorer
    from components.scorer.model.surgery import calibrate_batch_norms
    from components.scorer.parameters import from_parameters
    from components.scorer.settings import Pretraining

    settings = from_parameters(Pretraining, start="none")
    encoder = build_encoder(settings)
    pixels = np.random.default_rng(1).uniform(0, 255, (16, settings.crop, settings.crop, 3)).astype("float32")
    calibrate_batch_norms(encoder, pixels)
    network = serving_outputs.build_score_model(build_scorer(encoder, dropout=0.5))
    np.save(folder / "pixels.npy", pixels[:TOGETHER])
    np.save(folder / "means.npy", np.asarray(network(pixels[:TOGETHER], training=False)["mean"]))
    for kind, name in (("openvino", "openvino.xml"), ("onnx", "network.onnx"), ("litert", "network.tflite")):
        network.export(str(folder / name), format=kind, verbose=False)
    network.export(str(folder / "saved_model"), verbose=False)


def litert(folder: Path) -> Run:
    """Load LiteRT, as ``components.scorer.artifacts.litert_model`` runs it."""
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(folder / "network.tflite"), num_threads=1).get_signature_runner()
    return lambda pixels: run(pixels=pixels)["mean"]


def onnxruntime(folder: Path) -> Run:
    """Load onnxruntime on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "network.onnx", options, providers=["CPUExecutionProvider"])
    name, output_index = session.get_inputs()[0].name, _mean([output.shape for output in session.get_outputs()])
    return lambda pixels: session.run(None, {name: pixels})[output_index]


def openvino(folder: Path) -> Run:
    """Load OpenVINO on one thread in 32 bits; its default here would be bfloat16."""
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    compiled = openvino.Core().compile_model(folder / "openvino.xml", "CPU", options)
    request, output_index = compiled.create_infer_request(), None

    def run(pixels: np.ndarray) -> np.ndarray:
        nonlocal output_index
        outputs = request.infer({0: pixels}, share_inputs=True)
        output_index = (
            _mean([outputs[output].shape for output in compiled.outputs]) if output_index is None else output_index
        )
        return outputs[output_index]

    return run


def saved_model(folder: Path) -> Run:
    """Load TensorFlow on one thread."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    loaded = tf.saved_model.load(str(folder / "saved_model"))
    signature = loaded.signatures["serving_default"]
    return lambda pixels: signature(tf.constant(pixels))["mean"].numpy()


RUNTIMES = {load.__name__: load for load in (litert, onnxruntime, openvino, saved_model)}


def _mean(shapes: list) -> int:
    """Return the index of the mean scores among unnamed outputs: they come before the standard deviation."""
    return next(index for index, shape in enumerate(shapes) if len(shape) == 1)


def measure(runtime: str, folder: Path) -> dict[str, float]:
    """Measure one runtime in this process."""
    pixels, expected = np.load(folder / "pixels.npy"), np.load(folder / "means.npy")
    began = time.perf_counter()
    run = RUNTIMES[runtime](folder)
    run(pixels[:1])
    cold = time.perf_counter() - began
    result = {"alone": _rate(run, pixels[:1]), "together": _rate(run, pixels), "cold": cold}
    result["difference"] = float(np.abs(run(pixels) - expected).max())
    return result | {"memory": psutil.Process().memory_info().rss / 1e6}


def _rate(run: Run, pixels: np.ndarray) -> float:
    run(pixels)
    seconds = []
    for _ in range(PHOTOS // len(pixels)):
        began = time.perf_counter()
        run(pixels)
        seconds.append(time.perf_counter() - began)
    return len(pixels) / statistics.median(seconds)


def main() -> None:
    """Measure all runtimes in turn and print the medians."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    results: dict[str, list[dict[str, float]]] = {runtime: [] for runtime in RUNTIMES}
    with tempfile.TemporaryDirectory() as folder:
        export(Path(folder))
        for _ in range(ROUNDS):
            for runtime in RUNTIMES:
                command = [sys.executable, "-m", "tests.benchmarks.runtimes", runtime, folder]
                process = subprocess.run(command, check=True, capture_output=True, text=True)
                results[runtime].append(json.loads(process.stdout.splitlines()[-1]))
    medians = {runtime: {key: statistics.median(result[key] for result in rounds) for key in rounds[0]}
               for runtime, rounds in results.items()}  # fmt: skip
    print("on one thread      photos/s  of SavedModel  four together  cold start  resident  difference")
    for runtime, figures in medians.items():
        ratio = figures["alone"] / medians["saved_model"]["alone"]
        rates = f"{runtime:<19}{figures['alone']:8.0f}{ratio:15.2f}{figures['together']:15.0f}"
        print(f"{rates}{figures['cold']:10.2f} s{figures['memory']:7.0f} MB{figures['difference']:12.1e}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))
    else:
        main()
