"""Inference services: from an InferenceService manifest to a model that answers behind the gateway.

Owns manifests, revisions, rollouts, the gateway's configuration and the programs in ``replica/``. Knows nothing of where a model
came from: that is an ``open_model`` function and a hash. Decisions are pure (``rollout.py``, ``status.py``, ``envoy.py``); the
control step that carries them out is ``reconcile.py``.
"""
