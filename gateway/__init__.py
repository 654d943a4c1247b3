"""How jobs get in and are seen: the HTTP API, who may call it, and its pages."""
