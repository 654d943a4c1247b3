-- How long canaries take. ledger/canary.py runs these by name.

-- name: mark
-- A canary came through; an older, delayed one never sets the time back.
INSERT INTO relais.queues AS q (name, canary_at) VALUES (:queue, clock_timestamp())
ON CONFLICT (name) DO UPDATE SET canary_at = greatest(q.canary_at, excluded.canary_at)

-- name: ages
-- Seconds since the newest canary of each queue.
SELECT name, extract(epoch FROM clock_timestamp() - canary_at)::float8 AS age_s
FROM relais.queues WHERE canary_at IS NOT NULL
