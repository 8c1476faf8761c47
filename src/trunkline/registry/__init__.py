"""Models, their versions and aliases: which checkpoint is which model, and what a service loads for it."""
