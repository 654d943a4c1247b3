-- Which workers are dead. ledger/liveness.py runs these by name.

-- name: quiet_workers
-- Workers whose advisory lock is free, or whose lease has expired; and how many there are.
SELECT w.id, w.is_silent, w.is_overdue, w.everybody FROM (
    SELECT w.id, w.lease_until < statement_timestamp() AS is_overdue,
           count(*) OVER () AS everybody, held.key IS NULL AS is_silent
    FROM relais.workers AS w
    LEFT JOIN (
        SELECT (l.classid::bigint << 32) | l.objid::bigint AS key
        FROM pg_locks AS l
        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    ) AS held ON held.key = w.lock_key
) AS w

-- name: orphans
-- Owners of running jobs that have no row in `workers`: from one owner to the next, not over jobs.
WITH RECURSIVE owners (id) AS (
    (SELECT owner FROM relais.jobs WHERE state = 'running' ORDER BY owner LIMIT 1)
  UNION ALL
    SELECT (SELECT owner FROM relais.jobs WHERE state = 'running' AND owner > owners.id
            ORDER BY owner LIMIT 1)
    FROM owners WHERE owners.id IS NOT NULL
)
SELECT o.id FROM owners AS o
WHERE o.id IS NOT NULL AND NOT EXISTS (SELECT FROM relais.workers AS w WHERE w.id = o.id)

-- name: forget_workers
-- Rows of processes that have been gone for a while and own nothing. Looked up for each of them: as
-- NOT EXISTS, the planner may join all running jobs.
DELETE FROM relais.workers AS w
WHERE w.seen_at < statement_timestamp() - interval '5 minutes'
  AND (SELECT true FROM relais.jobs WHERE state = 'running' AND owner = w.id LIMIT 1) IS NULL

-- name: bury
-- Rows of dead workers once nothing is left of what they held. One that only seemed dead registers
-- again with its next heartbeat; until then it claims nothing.
DELETE FROM relais.workers AS w
WHERE w.id = ANY(CAST(:ids AS uuid[]))
  AND NOT EXISTS (SELECT FROM relais.jobs WHERE state = 'running' AND owner = w.id)
