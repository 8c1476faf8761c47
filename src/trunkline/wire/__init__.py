"""The models of the HTTP API, one file per noun. Shared by ``api`` and ``sdk``; nothing else may use them."""
