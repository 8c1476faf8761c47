"""The program that runs in a replica's process: one model, served over HTTP.

Imports nothing of trunkline but ``errors``: it starts fast, holds no token, and knows no database.
"""
