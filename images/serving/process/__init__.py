"""The processes of the server: supervisor, Nginx, Gunicorn and its workers, and the application in each."""
