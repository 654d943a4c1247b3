"""The embedded Postgres' settings, each quoted as in postgresql.conf."""

from __future__ import annotations

from ops.stack import ports

CONFIG: dict[str, str] = {
    "listen_addresses": f"'{ports.LOOPBACK}'",
    "unix_socket_directories": "''",
    "password_encryption": "'scram-sha-256'",
    "max_connections": "200",
    "shared_buffers": "'128MB'",
    # An acknowledged job must survive the power going: neither is negotiable.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_compression": "on",
    "max_wal_size": "'1GB'",
    "min_wal_size": "'80MB'",
    "checkpoint_timeout": "'10min'",
    # Every job's row is updated several times; without these the claim's index
    # collects dead entries faster than the defaults clear them away.
    "autovacuum_naptime": "'5s'",
    "autovacuum_vacuum_scale_factor": "0.02",
    "autovacuum_vacuum_insert_scale_factor": "0.1",
    "autovacuum_analyze_scale_factor": "0.05",
    "autovacuum_vacuum_cost_delay": "'1ms'",
    "autovacuum_vacuum_cost_limit": "1000",
    # One forgotten transaction would hold back vacuum, and with it every claim.
    "idle_in_transaction_session_timeout": "'10min'",
    "jit": "off",
    "log_min_duration_statement": "'1s'",
    "log_line_prefix": "'%m [%p] '",
    "log_statement": "'none'",
    # Statements carry payloads; the log must not.
    "log_min_error_statement": "'panic'",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "timezone": "'UTC'",
    "log_timezone": "'UTC'",
}
