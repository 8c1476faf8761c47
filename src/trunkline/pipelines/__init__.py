"""Pipelines: specs, inputs to datums, jobs in order of their commits, results cached by what decides them."""
