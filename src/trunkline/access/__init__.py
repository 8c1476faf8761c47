"""Who may do what: tokens, their scopes, and the one-time link that opens the console."""
