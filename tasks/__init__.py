"""What jobs do: one module or package per kind; a handler takes a payload and returns an outcome."""
