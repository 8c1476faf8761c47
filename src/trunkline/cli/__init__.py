"""The command line: verb, then noun. Imports only the SDK, so whatever it does, a script can."""
