"""HTTP server for a published version, without TensorFlow.

The modules, in the order of a request:

- `process.supervisor`: starts Nginx and Gunicorn; ``python -m images.serving``.
- `process.nginx`, `process.arriving`: Nginx's configuration with limits for each client; relay of request bodies.
- `process.gunicorn_settings`, `process.worker`: Gunicorn's configuration and worker class.
- `process.app`: the ASGI application of a worker.
- `http.middleware`: keys, hosts, security headers, metrics and access log.
- `http.request_body`: request bodies within limits.
- `http.worker_state`: the objects that the request handlers of a worker share.
- `protocols`: the routes of each protocol.
- `inference.version_source`: resolves and downloads versions.
- `inference.version_manager`: follows a channel and switches versions without dropping a request.
- `inference.micro_batcher`: decodes photos in a thread pool and scores them in batches.
- `inference.advice_queue`: advice on photos, one at a time.
- `http.schemas`, `http.openapi`: models of the JSON, and the OpenAPI document.

Shared by all rooms: `settings`, `problem_details`, `prometheus_metrics`, `json_log`, `sockets` (names of the workers'
sockets) and `attempts` (retries of requests whose worker died).
"""
