-- What a process says of itself. ledger/presence.py runs these by name, over psycopg alone.

-- name: register
-- At every connection; the rest it says with every beat.
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
-- Of a process that ends, unless something is owned still.
DELETE FROM relais.workers AS w WHERE w.id = :id
  AND NOT EXISTS (SELECT FROM relais.jobs WHERE state = 'running' AND owner = w.id)
