"""What jobs do: one module or package per kind; a payload goes in, an outcome comes out."""
