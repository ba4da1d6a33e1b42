"""HTTP layer: middleware, request bodies, worker state, JSON models and the OpenAPI document."""
