"""HTTP: middleware, request bodies, a worker's state, the OpenAPI document."""
