"""Where jobs run: the Celery app, routing, doorbells, the engine, reclaiming."""
