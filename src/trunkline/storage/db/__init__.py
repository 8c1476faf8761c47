"""The one SQL database: tables in ``schema``, connections and transactions in ``engine``.

It holds what is mutable (refs, statuses, leases) and the index of what is not. Queries live in each domain's ``store.py``.
"""
