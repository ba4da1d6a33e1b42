"""The library that the steps and the server share.

Rooms, in import order; a room imports only rooms above it:

* modules without a room: ``settings``, ``parameters``, ``jobs``, ``progress``, ``quoting``, ``redaction``, ``once``,
  ``litert`` and ``storage``; every room may use them.
* ``metrics``: scores, bootstrap, rater agreement, significance tests.
* ``imaging``: bytes to pixels.
* ``registry``: versions and channels.
* ``run``: paths, step status, decision, checks before a run.
* ``faces``: face detection, alignment and embedding; face inputs of a scorer.
* ``upload_norms``: the client's upload policy.
* ``data``: records and batches of the data set.
* ``model``: layers, encoder, network, heads, losses.
* ``fit``: resumable training loop, checkpoints, EMA of weights, workers.
* ``artifacts``: the trained bundle, the SavedModel, the LiteRT version and its warm-up requests.
* ``report``: HTML pages.
* ``explain``, ``advice`` and ``batch``: uses of a scorer.

Path of a photo: ``imaging.decoding``, ``faces.analyzer``, then ``imaging.preprocessing_tf`` (training) or
``artifacts.litert_model`` (serving), the network, votes.

Where to change what:

* a default in ``settings``;
* a loss in ``model.losses``, a layer in ``model.layers``, a metric in ``metrics``;
* an upload norm in ``upload_norms.detectors``, an advised edit in ``advice.edits``;
* an exported output in ``artifacts.saved_model``;
* a gate in ``components.evaluation`` or ``components.validation``, its key in ``settings``;
* an endpoint in ``images.serving.protocols``;
* a rating form in ``components.ingestion.ratings``.

``README.md`` in this folder has the glossary.
"""
