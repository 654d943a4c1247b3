-- Lanes: what waits in each, their pauses and settings. ledger/lanes.py runs these by name.

-- name: look
-- The longest ready job of every lane, kind and priority of a queue that may be claimed, from where
-- the last look ended (`floors`). Paused lanes and queues are left out, except for Relais' own jobs:
-- no pause stops housekeeping. Floors are looked up by key: joined as rows, whose number the planner
-- cannot know, each would be compared with each lane.
SELECT l.lane, l.kind, l.priority, head.ready_at,
       least(own.running_max, every.running_max) AS running_max,
       coalesce(own.weight, 1) * coalesce(every.weight, 1) AS weight,
       statement_timestamp() AS now,
       extract(epoch FROM statement_timestamp() - head.ready_at)::float8 AS waited_s
FROM relais.lanes AS l
CROSS JOIN LATERAL (
    SELECT j.ready_at FROM relais.jobs AS j
    WHERE j.queue = l.queue AND j.lane = l.lane AND j.kind = l.kind AND j.priority = l.priority
      AND j.state = 'ready'
      AND j.ready_at >= coalesce(
          (CAST(:floors AS jsonb) ->> concat_ws(chr(31), l.lane, l.kind, l.priority))::timestamptz,
          '-infinity')
    ORDER BY j.ready_at LIMIT 1
) AS head
LEFT JOIN relais.lane_settings AS own ON own.queue = l.queue AND own.lane = l.lane
LEFT JOIN relais.lane_settings AS every ON every.queue = '*' AND every.lane = l.lane
WHERE l.queue = :queue AND (CAST(:of_kinds AS text[]) IS NULL OR l.kind = ANY(:of_kinds))
  AND (l.lane = 'system'
       OR (own.paused_at IS NULL OR own.paused_until <= statement_timestamp())
       AND (every.paused_at IS NULL OR every.paused_until <= statement_timestamp())
       AND NOT EXISTS (SELECT FROM relais.queues AS q
                       WHERE q.name = l.queue AND q.paused_at IS NOT NULL))

-- name: workers
-- How many processes claim from a queue: a lane's `running_max` is divided among them.
SELECT count(*) FROM relais.workers
WHERE queue = :queue AND lease_until > statement_timestamp()

-- name: pause
-- Nothing is claimed from the lane until it is resumed, until a given time, or for `until_s`.
-- No pause shortens one of the same kind. An operator's replaces a relay's, which is set again if it
-- is still needed afterwards; a relay's never touches an operator's.
INSERT INTO relais.lane_settings AS s (queue, lane, paused_at, paused_until, paused_by, reason)
VALUES (:queue, :lane, clock_timestamp(),
        coalesce(CAST(:until AS timestamptz),
                 clock_timestamp() + CAST(:until_s AS float8) * interval '1 second'),
        :by, :reason)
ON CONFLICT (queue, lane) DO UPDATE
SET paused_at = CASE WHEN s.paused_until <= clock_timestamp() THEN excluded.paused_at
                     ELSE coalesce(s.paused_at, excluded.paused_at) END,
    paused_until = excluded.paused_until, paused_by = excluded.paused_by,
    reason = excluded.reason, changed_at = clock_timestamp()
WHERE s.paused_at IS NULL OR s.paused_until <= clock_timestamp()
   OR (s.paused_by = 'relay' AND excluded.paused_by <> 'relay')
   OR ((s.paused_by = 'relay') = (excluded.paused_by = 'relay')
       AND s.paused_until < coalesce(excluded.paused_until, 'infinity'))

-- name: in_force
-- The pause of a lane that lasts longest: the queue's own or the one for every queue.
SELECT paused_at, paused_until, paused_by, reason FROM relais.lane_settings
WHERE queue IN (:queue, '*') AND lane = :lane AND paused_at IS NOT NULL
  AND coalesce(paused_until > statement_timestamp(), true)
ORDER BY paused_until DESC NULLS FIRST LIMIT 1

-- name: resume
-- The lane is claimed again: in one queue, or ('*') in all, including pauses of single queues.
UPDATE relais.lane_settings
SET paused_at = NULL, paused_until = NULL, paused_by = NULL, reason = NULL,
    changed_at = clock_timestamp()
WHERE (CAST(:queue AS text) = '*' OR queue = :queue) AND lane = :lane AND paused_at IS NOT NULL
RETURNING lane

-- name: waiting
-- A ready job of each queue, kind and priority of a lane, to ring idle workers.
SELECT l.queue, l.kind, head.id FROM relais.lanes AS l
CROSS JOIN LATERAL (
    SELECT j.id FROM relais.jobs AS j
    WHERE j.queue = l.queue AND j.lane = l.lane AND j.kind = l.kind AND j.priority = l.priority
      AND j.state = 'ready'
    ORDER BY j.ready_at LIMIT 1
) AS head
WHERE (CAST(:queue AS text) = '*' OR l.queue = :queue) AND l.lane = :lane

-- name: configure
-- Limit on jobs at once, and weight.
INSERT INTO relais.lane_settings AS s (queue, lane, running_max, weight)
VALUES (:queue, :lane, :running_max, :weight)
ON CONFLICT (queue, lane) DO UPDATE
SET running_max = excluded.running_max, weight = excluded.weight, changed_at = clock_timestamp()

-- name: list
-- Lanes by name, with pauses and settings; the queue '*' has what was set for every queue.
-- Running jobs are counted up to `running_seen` jobs of all lanes (beyond it: NULL), what is ready up to
-- `ready_seen` of each lane, so that a page costs the same whatever the backlog.
WITH page AS MATERIALIZED (
    SELECT lane, queue FROM (
        SELECT queue, lane FROM relais.lanes
        UNION
        SELECT queue, lane FROM relais.lane_settings
        WHERE running_max IS NOT NULL OR weight <> 1
           OR (paused_at IS NOT NULL AND coalesce(paused_until > statement_timestamp(), true))
    ) AS known
    WHERE (CAST(:queue AS text) IS NULL OR queue IN (:queue, '*'))
      AND (CAST(:tenant AS text) IS NULL OR lane = :tenant
           OR starts_with(lane, CAST(:tenant AS text) || '/'))
      AND starts_with(lane, :prefix)
      AND (lane, queue COLLATE "C") > (:after_lane, :after_queue)
    ORDER BY lane, queue COLLATE "C" LIMIT :limit
), seen AS MATERIALIZED (
    SELECT queue, lane FROM relais.jobs WHERE state = 'running' LIMIT :running_seen + 1
), running AS MATERIALIZED (
    SELECT queue, lane, count(*)::int AS jobs FROM seen GROUP BY queue, lane
)
SELECT p.queue, p.lane, pause.paused_at, pause.paused_until, pause.paused_by, pause.reason,
       least(own.running_max, every.running_max) AS running_max,
       coalesce(own.weight, 1) * coalesce(every.weight, 1) AS weight,
       CASE WHEN p.queue <> '*' AND (SELECT count(*) FROM seen) <= :running_seen
            THEN coalesce(running.jobs, 0) END AS running,
       CASE WHEN p.queue <> '*' THEN ready.jobs END AS ready, ready.since AS ready_at
FROM page AS p
LEFT JOIN relais.lane_settings AS own ON own.queue = p.queue AND own.lane = p.lane
LEFT JOIN relais.lane_settings AS every
  ON every.queue = '*' AND every.lane = p.lane AND p.queue <> '*'
LEFT JOIN LATERAL (
    SELECT d.* FROM (VALUES
        (own.paused_at, own.paused_until, own.paused_by, own.reason),
        (every.paused_at, every.paused_until, every.paused_by, every.reason)
    ) AS d (paused_at, paused_until, paused_by, reason)
    WHERE d.paused_at IS NOT NULL AND coalesce(d.paused_until > statement_timestamp(), true)
    ORDER BY d.paused_until DESC NULLS FIRST LIMIT 1
) AS pause ON true
LEFT JOIN running ON running.queue = p.queue AND running.lane = p.lane
CROSS JOIN LATERAL (
    SELECT least(count(*), :ready_seen + 1)::int AS jobs, min(first.ready_at) AS since FROM (
        SELECT j.ready_at FROM relais.lanes AS k
        CROSS JOIN LATERAL (
            SELECT j.ready_at FROM relais.jobs AS j
            WHERE j.queue = k.queue AND j.lane = k.lane AND j.kind = k.kind
              AND j.priority = k.priority AND j.state = 'ready'
            ORDER BY j.ready_at LIMIT :ready_seen + 1
        ) AS j
        WHERE k.queue = p.queue AND k.lane = p.lane
    ) AS first
) AS ready
ORDER BY p.lane, p.queue COLLATE "C"

-- name: register
-- Lanes that jobs are about to use, in the order in which the trigger registers them.
INSERT INTO relais.lanes (queue, lane, kind, priority)
SELECT * FROM unnest(
    CAST(:queues AS text[]), CAST(:lanes AS text[]), CAST(:kinds AS text[]),
    CAST(:priorities AS smallint[])
) AS asked (queue, lane, kind, priority)
ORDER BY queue, lane, kind, priority
ON CONFLICT DO NOTHING

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
-- Removes those of the next groups of the registry in which nothing is ready or scheduled, unless
-- there are few in total; new jobs register again. One whose job is being written at this moment may
-- be removed too: `register_missing` brings it back.
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
