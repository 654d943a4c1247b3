"""The routes of the HTTP API, one noun a module; each says which roles may call it."""
