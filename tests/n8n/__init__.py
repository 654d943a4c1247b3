"""A real n8n against a running stack: `python -m tests.n8n.prove`."""
