-- What a process reports about itself. ledger/presence.py runs these by name, over psycopg alone.

-- name: register
-- On every connection; the rest is sent with every heartbeat.
INSERT INTO relais.workers
    (id, name, queue, colour, version, host, pid, lock_key, kinds, lease_until)
VALUES (:id, :name, :queue, :colour, :version, :host, :pid, :lock_key, :kinds,
        statement_timestamp() + :lease_s * interval '1 second')
ON CONFLICT (id) DO UPDATE SET
    lock_key = excluded.lock_key, host = excluded.host, pid = excluded.pid,
    seen_at = statement_timestamp(),
    lease_until = greatest(workers.lease_until, excluded.lease_until)
RETURNING pg_backend_pid()

-- name: sign_off
-- When a process ends, unless it still owns something.
DELETE FROM relais.workers AS w WHERE w.id = :id
  AND NOT EXISTS (SELECT FROM relais.jobs WHERE state = 'running' AND owner = w.id)
