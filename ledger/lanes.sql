-- Lanes: what waits in which, and what was decided about them. ledger/lanes.py runs these by name.

-- name: look
-- The longest ready job of every lane, kind and priority of a queue that may be claimed, from where
-- the last look ended (`floors`). Paused lanes and queues are left out, but for what Relais gives
-- itself: nothing that somebody pauses stops housekeeping.
SELECT l.lane, l.kind, l.priority, head.ready_at, s.running_max, coalesce(s.weight, 1) AS weight,
       statement_timestamp() AS now,
       extract(epoch FROM statement_timestamp() - head.ready_at)::float8 AS waited_s
FROM relais.lanes AS l
LEFT JOIN unnest(
    CAST(:lanes AS text[]), CAST(:kinds AS text[]), CAST(:priorities AS int[]),
    CAST(:floors AS timestamptz[])
) AS known (lane, kind, priority, floor)
  ON known.lane = l.lane AND known.kind = l.kind AND known.priority = l.priority
CROSS JOIN LATERAL (
    SELECT j.ready_at FROM relais.jobs AS j
    WHERE j.queue = l.queue AND j.lane = l.lane AND j.kind = l.kind AND j.priority = l.priority
      AND j.state = 'ready' AND j.ready_at >= coalesce(known.floor, '-infinity')
    ORDER BY j.ready_at LIMIT 1
) AS head
LEFT JOIN LATERAL (
    SELECT min(running_max) AS running_max, min(weight) AS weight,
           bool_or(paused_at IS NOT NULL
                   AND coalesce(paused_until > statement_timestamp(), true)) AS is_paused
    FROM relais.lane_settings WHERE queue IN (l.queue, '*') AND lane = l.lane
) AS s ON true
WHERE l.queue = :queue AND (CAST(:of_kinds AS text[]) IS NULL OR l.kind = ANY(:of_kinds))
  AND (l.lane = 'system'
       OR NOT coalesce(s.is_paused, false)
       AND NOT EXISTS (SELECT FROM relais.queues AS q
                       WHERE q.name = l.queue AND q.paused_at IS NOT NULL))

-- name: workers
-- How many processes claim from a queue: a lane's `running_max` is shared out among them.
SELECT count(*) FROM relais.workers
WHERE queue = :queue AND lease_until > statement_timestamp()

-- name: pause
-- Nothing of the lane is claimed, until it is resumed or `until_s` from now.
INSERT INTO relais.lane_settings AS s (queue, lane, paused_at, paused_until, paused_by, reason)
VALUES (:queue, :lane, clock_timestamp(),
        clock_timestamp() + CAST(:until_s AS float8) * interval '1 second', :by, :reason)
ON CONFLICT (queue, lane) DO UPDATE
SET paused_at = coalesce(s.paused_at, excluded.paused_at), paused_until = excluded.paused_until,
    paused_by = excluded.paused_by, reason = excluded.reason, changed_at = clock_timestamp()

-- name: resume
-- The lane is claimed again.
UPDATE relais.lane_settings
SET paused_at = NULL, paused_until = NULL, paused_by = NULL, reason = NULL,
    changed_at = clock_timestamp()
WHERE queue = :queue AND lane = :lane AND paused_at IS NOT NULL
RETURNING lane

-- name: configure
-- How many at once, and how large a share.
INSERT INTO relais.lane_settings AS s (queue, lane, running_max, weight)
VALUES (:queue, :lane, :running_max, :weight)
ON CONFLICT (queue, lane) DO UPDATE
SET running_max = excluded.running_max, weight = excluded.weight, changed_at = clock_timestamp()

-- name: list
-- The lanes of a queue: how long their first job has waited, and what was decided about them.
SELECT l.lane, head.ready_at, s.paused_at, s.paused_until, s.paused_by, s.reason, s.running_max,
       coalesce(s.weight, 1) AS weight
FROM (
    SELECT lane FROM relais.lanes WHERE queue = :queue
    UNION SELECT lane FROM relais.lane_settings WHERE queue IN (:queue, '*')
) AS l
LEFT JOIN LATERAL (
    SELECT min(first.ready_at) AS ready_at FROM relais.lanes AS k
    CROSS JOIN LATERAL (
        SELECT j.ready_at FROM relais.jobs AS j
        WHERE j.queue = k.queue AND j.lane = k.lane AND j.kind = k.kind
          AND j.priority = k.priority AND j.state = 'ready'
        ORDER BY j.ready_at LIMIT 1
    ) AS first
    WHERE k.queue = :queue AND k.lane = l.lane
) AS head ON true
LEFT JOIN LATERAL (
    SELECT * FROM relais.lane_settings WHERE queue IN (:queue, '*') AND lane = l.lane
    ORDER BY queue DESC LIMIT 1
) AS s ON true
WHERE (CAST(:tenant AS text) IS NULL OR l.lane = :tenant
       OR left(l.lane, length(:tenant) + 1) = :tenant || '/')
  AND l.lane > :after
ORDER BY l.lane LIMIT :limit

-- name: register_missing
-- Lanes of ready and scheduled jobs that the registry does not have.
INSERT INTO relais.lanes (queue, lane, kind, priority)
WITH RECURSIVE groups AS (
    (SELECT queue, lane, kind, priority FROM relais.jobs WHERE state = 'ready'
     ORDER BY queue, lane, kind, priority LIMIT 1)
  UNION ALL
    SELECT next.* FROM groups AS g CROSS JOIN LATERAL (
        SELECT j.queue, j.lane, j.kind, j.priority FROM relais.jobs AS j
        WHERE j.state = 'ready'
          AND (j.queue, j.lane, j.kind, j.priority) > (g.queue, g.lane, g.kind, g.priority)
        ORDER BY j.queue, j.lane, j.kind, j.priority LIMIT 1
    ) AS next
), later AS (
    (SELECT queue, lane, kind, priority FROM relais.jobs WHERE state = 'scheduled'
     ORDER BY queue, lane, kind, priority LIMIT 1)
  UNION ALL
    SELECT next.* FROM later AS g CROSS JOIN LATERAL (
        SELECT j.queue, j.lane, j.kind, j.priority FROM relais.jobs AS j
        WHERE j.state = 'scheduled'
          AND (j.queue, j.lane, j.kind, j.priority) > (g.queue, g.lane, g.kind, g.priority)
        ORDER BY j.queue, j.lane, j.kind, j.priority LIMIT 1
    ) AS next
)
SELECT * FROM groups UNION SELECT * FROM later
ON CONFLICT DO NOTHING

-- name: forget_idle
-- Those of the next groups of the registry in which nothing is ready or scheduled, unless there are
-- few in all; whoever comes registers anew. One whose job is being written at this moment may go with them: it comes back by
-- `register_missing`.
WITH seen AS MATERIALIZED (
    SELECT l.ctid AS place, l.queue, l.lane, l.kind, l.priority,
           (SELECT j.id FROM relais.jobs AS j
            WHERE j.queue = l.queue AND j.lane = l.lane AND j.kind = l.kind
              AND j.priority = l.priority AND j.state = 'ready' LIMIT 1) IS NULL
           AND (SELECT j.id FROM relais.jobs AS j
                WHERE j.queue = l.queue AND j.lane = l.lane AND j.kind = l.kind
                  AND j.priority = l.priority AND j.state = 'scheduled' LIMIT 1) IS NULL AS is_idle
    FROM relais.lanes AS l
    WHERE (l.queue, l.lane, l.kind, l.priority)
          > (CAST(:after_queue AS text), CAST(:after_lane AS text), CAST(:after_kind AS text),
             CAST(:after_priority AS int))
      AND (SELECT count(*) FROM (SELECT FROM relais.lanes LIMIT :kept + 1) AS counted) > :kept
    ORDER BY l.queue, l.lane, l.kind, l.priority LIMIT :limit
), gone AS (
    DELETE FROM relais.lanes WHERE ctid = ANY(ARRAY(SELECT place FROM seen WHERE is_idle))
    RETURNING 1
)
SELECT (SELECT count(*) FROM seen) AS looked_at, (SELECT count(*) FROM gone) AS removed,
       last.queue, last.lane, last.kind, last.priority
FROM (SELECT 1) AS one
LEFT JOIN (SELECT queue, lane, kind, priority FROM seen
           ORDER BY queue DESC, lane DESC, kind DESC, priority DESC LIMIT 1) AS last ON true
