"""Processes of the server: supervisor, Nginx, Gunicorn, its workers, and the application of each worker."""
