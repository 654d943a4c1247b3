-- How each queue is doing. ledger/queue_health.py runs these by name.

-- name: look
-- Per queue: since when its oldest ready job has been ready, by lane; operators' settings; canaries.
SELECT
    q.name,
    extract(epoch FROM statement_timestamp() - (
        SELECT min(head.ready_at) FROM relais.lanes AS l
        CROSS JOIN LATERAL (
            SELECT j.ready_at FROM relais.jobs AS j
            WHERE j.queue = l.queue AND j.lane = l.lane AND j.kind = l.kind
              AND j.priority = l.priority AND j.state = 'ready'
            ORDER BY j.ready_at LIMIT 1
        ) AS head
        WHERE l.queue = q.name
    ))::float8 AS oldest_ready_s,
    known.paused_at IS NOT NULL AS is_paused,
    extract(epoch FROM statement_timestamp() - known.canary_at)::float8 AS canary_age_s
FROM unnest(CAST(:queues AS text[])) WITH ORDINALITY AS q (name, position)
LEFT JOIN relais.queues AS known ON known.name = q.name
ORDER BY q.position
