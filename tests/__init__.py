"""The tests: real Postgres, Valkey, SMTP and HTTP, started by the fixtures in `conftest`."""
