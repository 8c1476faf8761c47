"""The programs that run in worker processes: clients of the HTTP API, which never see a service or the database.

``lease`` is the loop that they share; ``datum`` runs user code of pipelines, ``trial`` that of experiments.
"""
