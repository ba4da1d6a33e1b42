"""The library that the steps and the server share.

Rooms, in the order in which they may import each other:

* ``settings``, ``parameters``, ``jobs``, ``progress``, ``quoting``, ``redaction``, ``once``, ``litert``, ``storage``:
  what every room may use;
* ``run`` (paths, step status, decision, checks before a run), ``metrics``, ``imaging`` (bytes to pixels) and
  ``registry`` (versions and channels);
* ``faces``: faces are found, aligned and embedded; the face inputs of a scorer;
* ``upload_norms`` (the client's upload policy), ``data`` (records and batches of the data set) and ``model`` (layers,
  encoder, network, heads, losses);
* ``fit``: the training loop that can be resumed, checkpoints, averaged weights, workers;
* ``artifacts``: the trained bundle, the SavedModel, the LiteRT version and its warm-up requests;
* ``explain``, ``advice`` and ``batch``: what is done with a scorer; ``report``: HTML pages.

A photo's way: ``imaging.decoding.normalise``, ``faces.analyzer.Reader``, ``imaging.preprocessing_tf`` or
``artifacts.litert_model.pixels``, the network, votes.

Where to change what: a loss in ``model.losses``; a layer in ``model.layers``; an upload norm in
``upload_norms.detectors``; a metric in ``metrics``; a default in ``settings``; what is exported in
``artifacts.saved_model``; an edit that is advised in ``advice.edits``.
"""
