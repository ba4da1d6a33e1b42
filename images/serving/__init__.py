"""The server: a published version answers over HTTP, without TensorFlow.

Its modules, in the order of a request:

launch       Nginx and Gunicorn as children of one command, ``python -m images.serving``
worker       one Gunicorn worker
places       the socket of its own by which Nginx asks a worker that can answer
nginx        what Nginx is told: limits for each client, and that a worker is asked for the key before a body is read
app          the application: which address is answered by what
guard        before and after every request: keys, hosts, headers, time, metrics
attempts     has the photos of a request whose worker died decoded apart
bodies       reads bodies within limits
predict_v1, infer_v2, sagemaker, product    what the addresses of each protocol do
models       which version answers: follows the channel, switches without dropping a request
source       where versions come from
batching     photos of all connections, decoded by some threads, scored by one
schemas, reference           the JSON that is asked for and answered, and the OpenAPI document that tells of it
problems, metrics, settings  what all of them share
"""
