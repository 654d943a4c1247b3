-- Pausing queues. ledger/queues.py runs these by name.

-- name: pause
-- Pause a queue; a second pause keeps the first one's time and name.
INSERT INTO relais.queues (name, paused_at, paused_by) VALUES (:name, clock_timestamp(), :by)
ON CONFLICT (name) DO UPDATE SET
    paused_at = coalesce(relais.queues.paused_at, excluded.paused_at),
    paused_by = coalesce(relais.queues.paused_by, excluded.paused_by)

-- name: resume
-- Resume a queue.
UPDATE relais.queues SET paused_at = NULL, paused_by = NULL
WHERE name = :name AND paused_at IS NOT NULL RETURNING name
