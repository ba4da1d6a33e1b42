"""The steps of the pipeline, in the order in which they run.

1. ``ingestion``: photos and ratings become a checked, split data set.
2. ``pretraining``: unlabelled photos become an encoder.
3. ``training``: the data set and the encoder become a scorer bundle.
4. ``evaluation``: the scorer and the champion are measured on the test split; the gates decide.
5. ``push``: a scorer that passed becomes a published version.
6. ``notification``: people are notified of every outcome.

``scorer`` is not a step: it is the library that the steps share. A step folder holds ``component.py``, the
KFP component, and a module named after the step's action. Steps never import each other.
"""
