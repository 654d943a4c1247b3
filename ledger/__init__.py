"""The truth: models, migrations, transitions, named SQL, read queries."""
