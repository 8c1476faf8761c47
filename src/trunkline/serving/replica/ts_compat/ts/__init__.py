"""The part of TorchServe's ``ts`` package that model handlers import, for replicas in whose environment TorchServe is not
installed. Names and behaviour are TorchServe's; the code is ours. Imports inside are relative, because it is known by two names.
"""
