"""Work that outlives a request: leased task rows, the outbox, worker processes and the engines that run them.

Owns *that* work is done exactly once, in spite of crashes; knows nothing of *what* the work is. Domains register a handler for
their kind of task and meet each other through outbox topics.
"""
