"""Container images of the pipeline's steps and of the server."""
