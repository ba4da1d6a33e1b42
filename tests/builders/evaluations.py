"""Settings, photos and probe results of small evaluations."""

from components.evaluation.export_probe import ExportProbeResult
from components.scorer.settings import Evaluation
from tests.builders import designed

SERVED = ExportProbeResult(32, 1e-6, 1e-6, 1.0, 20.0, 10.0, 12.0, 100.0, 700.0, 5.0)
PHOTOS = 48
SOUND = designed.SOUND
NOISY = {**SOUND, "stripes": 40, "intercept": -1.5}
SETTINGS = Evaluation(
    bootstrap=60,
    minimum_test_photos=40,
    minimum_slice=20,
    behaviour_photos=4,
    perturbation_photos=1,
    champion_margin=0.1,
    champion_margin_emd=0.3,
    maximum_rise=9.0,
)
