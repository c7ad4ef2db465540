"""The explorer: a page that shows how the next token is chosen, and its server."""
