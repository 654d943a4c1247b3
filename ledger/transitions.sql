-- The statements that change relais.jobs.state, beside those of consequences.sql.
-- ledger/transitions.py runs them by name.
-- Fence: an outcome names (id, attempt); a row that has moved on is not touched. "Running" is written
-- as `owner IS NOT NULL`, which a CHECK makes equivalent, so that the primary key finds the rows: the
-- index on running jobs is full of dead entries.
-- Predicates use statement_timestamp(), which an index can serve. A trigger writes the history.

-- name: accept
-- Insert jobs and their payloads (an empty object is not stored), in one round trip; one whose
-- key is in use is skipped. A child whose parent has failed is inserted in the state in which it would
-- have ended.
WITH asked AS (
    SELECT j.*, CASE
        WHEN j.ended IS NOT NULL THEN j.ended
        WHEN j.waits_for > 0 THEN 'blocked'
        WHEN coalesce(j.run_at, statement_timestamp() + j.delay_s * interval '1 second')
             > statement_timestamp() THEN 'scheduled'
        ELSE 'ready'
    END::relais.job_state AS state
    FROM json_to_recordset(:jobs) AS j (
        id uuid, tenant text, lane text, kind text, queue text, waits_for int, ended text,
        reason text, priority smallint, payload jsonb, payload_bytes int, run_at timestamptz,
        delay_s float8, deadline timestamptz, max_attempts smallint, timeout_s float8,
        backoff jsonb, idempotency_key text, request_hash text, callback_url text,
        workflow_id text, tags text[], traceparent text, trace_id text, accepted_by text,
        on_parent_failure text
    )
), born AS (
    INSERT INTO relais.jobs (
        id, tenant, lane, kind, queue, state, priority, payload_bytes, run_at, ready_at,
        finished_at, deadline, waits_for, max_attempts, timeout_s, backoff, idempotency_key,
        request_hash, callback_url, workflow_id, tags, traceparent, trace_id, accepted_by,
        on_parent_failure, reason
    )
    SELECT
        id, tenant, lane, kind, queue, state, priority, payload_bytes,
        coalesce(run_at, clock_timestamp() + coalesce(delay_s, 0) * interval '1 second'),
        CASE WHEN state = 'ready' THEN clock_timestamp() END,
        CASE WHEN ended IS NOT NULL THEN clock_timestamp() END,
        deadline, waits_for, max_attempts, timeout_s, backoff, idempotency_key,
        decode(request_hash, 'hex'), callback_url, workflow_id, coalesce(tags, '{}'), traceparent,
        trace_id, accepted_by, on_parent_failure, reason
    FROM asked
    ON CONFLICT (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
    RETURNING id, state, created_at, run_at
), kept AS (
    INSERT INTO relais.job_bodies (job_id, payload)
    SELECT id, payload FROM born JOIN asked USING (id) WHERE payload <> '{}'
)
SELECT id, state, created_at, run_at FROM born

-- name: find_by_key
-- The jobs that already hold these idempotency keys.
SELECT j.id, j.tenant, j.idempotency_key, j.request_hash, j.state, j.created_at, j.run_at
FROM relais.jobs AS j
JOIN unnest(CAST(:tenants AS text[]), CAST(:keys AS text[])) AS k (tenant, key)
  ON j.tenant = k.tenant AND j.idempotency_key = k.key

-- name: promote
-- scheduled -> ready: the time has come. Of each lane so many at most, the most urgent first; how
-- many of one lane there were, and until when was looked.
-- `since` is where the last look ended: what is due and older is not there any more.
WITH due AS MATERIALIZED (
    SELECT d.id, d.run_at, l.lane, l.kind, l.priority
    FROM (SELECT * FROM relais.lanes WHERE queue = :queue ORDER BY priority DESC) AS l
    CROSS JOIN LATERAL (
        SELECT j.id, j.run_at FROM relais.jobs AS j
        WHERE j.queue = l.queue AND j.lane = l.lane AND j.kind = l.kind
          AND j.priority = l.priority AND j.state = 'scheduled'
          AND j.run_at <= statement_timestamp() AND j.run_at >= CAST(:since AS timestamptz)
        ORDER BY j.run_at LIMIT :per_lane FOR UPDATE SKIP LOCKED
    ) AS d
    LIMIT :limit
), placed AS (
    SELECT id, row_number() OVER (ORDER BY run_at, id) AS place FROM due
), moved AS (
    UPDATE relais.jobs AS j
    SET state = 'ready', reason = NULL,
        ready_at = statement_timestamp() + placed.place * interval '1 microsecond'
    FROM placed WHERE j.id = placed.id
)
SELECT coalesce(sum(jobs), 0)::int AS jobs, coalesce(max(jobs), 0) AS most,
       statement_timestamp() AS looked_at
FROM (SELECT count(*) AS jobs FROM due GROUP BY lane, kind, priority) AS of_lane

-- name: claim
-- ready -> running: of each wish (a lane, a kind, a priority) the longest ready, from where the
-- last claim ended. Nothing for an owner that the ledger does not know to be alive.
WITH found AS MATERIALIZED (
    SELECT ready.*, wish.place
    FROM unnest(
        CAST(:lanes AS text[]), CAST(:kinds AS text[]), CAST(:priorities AS int[]),
        CAST(:floors AS timestamptz[]), CAST(:quotas AS int[])
    ) WITH ORDINALITY AS wish (lane, kind, priority, floor, quota, place)
    CROSS JOIN LATERAL (
        SELECT j.id, j.ready_at, j.payload_bytes FROM relais.jobs AS j
        WHERE j.queue = :queue AND j.lane = wish.lane AND j.kind = wish.kind
          AND j.priority = wish.priority AND j.state = 'ready' AND j.ready_at >= wish.floor
        ORDER BY j.ready_at, j.id LIMIT wish.quota FOR UPDATE SKIP LOCKED
    ) AS ready
    LIMIT :limit
), picked AS MATERIALIZED (
    SELECT id, ready_at,
           sum(payload_bytes) OVER (ORDER BY place, ready_at, id) - payload_bytes AS bytes_before
    FROM found
), taken AS (
    UPDATE relais.jobs AS j
    SET state = 'running', attempt = j.attempt + 1, owner = :owner,
        lease_until = clock_timestamp() + :lease_s * interval '1 second',
        started_at = clock_timestamp(), worker = :worker, colour = :colour, version = :version,
        ready_at = NULL, reason = NULL, error = NULL
    WHERE j.id = ANY(ARRAY(SELECT p.id FROM picked AS p WHERE p.bytes_before < :bytes_max))
      AND EXISTS (SELECT FROM relais.workers AS w WHERE w.id = :owner)
    RETURNING j.id, j.attempt, j.kind, j.queue, j.tenant, j.lane, j.priority, j.max_attempts,
              j.uncounted, j.timeout_s, j.backoff, j.alone, j.deaths, j.workflow_id, j.tags,
              j.traceparent, j.run_at, j.started_at,
              coalesce(j.deadline < statement_timestamp(), false) AS is_late
)
SELECT taken.*, picked.ready_at, coalesce(body.payload, '{}') AS payload
FROM taken
JOIN picked ON picked.id = taken.id
LEFT JOIN relais.job_bodies AS body ON body.job_id = taken.id

-- name: succeed
-- running -> succeeded.
UPDATE relais.jobs AS j
SET state = 'succeeded', finished_at = clock_timestamp(), owner = NULL, lease_until = NULL,
    snoozes = 0, snoozed_since = NULL, reason = NULL, error = NULL
FROM json_to_recordset(:rows) AS d (id uuid, attempt int)
WHERE j.id = d.id AND j.attempt = d.attempt AND j.owner IS NOT NULL
RETURNING j.id, true AS is_over, j.callback_url IS NOT NULL AS calls_back

-- name: finish
-- running -> failed, cancelled or unknown.
UPDATE relais.jobs AS j
SET state = d.state::relais.job_state, finished_at = clock_timestamp(), owner = NULL,
    lease_until = NULL, snoozes = 0, snoozed_since = NULL, reason = d.reason, error = d.error
FROM json_to_recordset(:rows) AS d (id uuid, attempt int, state text, reason text, error jsonb)
WHERE j.id = d.id AND j.attempt = d.attempt AND j.owner IS NOT NULL
RETURNING j.id, true AS is_over, j.callback_url IS NOT NULL AS calls_back

-- name: keep_results
-- Results of the jobs that have just ended.
INSERT INTO relais.job_bodies (job_id, payload, result)
SELECT id, '{}', result FROM json_to_recordset(:rows) AS d (id uuid, result jsonb)
ON CONFLICT (job_id) DO UPDATE SET result = excluded.result

-- name: lock
-- Rows that a statement with joins is about to change, in a separate statement: if that waited
-- for several that another transaction has changed, it would find only the first of them again.
SELECT id FROM relais.jobs
WHERE id = ANY(CAST(:ids AS uuid[])) AND (CAST(:tenant AS text) IS NULL OR tenant = :tenant)
ORDER BY id FOR NO KEY UPDATE

-- name: defer
-- running -> scheduled, cancelled or failed: a retry (costs an attempt) or a snooze (uncounted = 1:
-- costs none). Cancelled where that was accepted meanwhile; failed where it snoozes without end.
-- The caller has locked them.
WITH asked AS (
    SELECT j.id, j.attempt, d.delay_s, d.uncounted, d.error, CASE
        WHEN j.cancel_requested_at IS NOT NULL THEN 'cancelled'
        WHEN d.uncounted = 1
             AND j.snoozed_since < statement_timestamp() - :snooze_max_s * interval '1 second'
        THEN 'failed'
        ELSE 'scheduled' END::relais.job_state AS state,
        coalesce(d.reason, 'put off') AS reason
    FROM json_to_recordset(:rows)
        AS d (id uuid, attempt int, delay_s float8, uncounted int, reason text, error jsonb)
    JOIN relais.jobs AS j ON j.id = d.id AND j.attempt = d.attempt AND j.owner IS NOT NULL
)
UPDATE relais.jobs AS j
SET state = a.state, owner = NULL, lease_until = NULL, uncounted = j.uncounted + a.uncounted,
    finished_at = CASE WHEN a.state <> 'scheduled' THEN clock_timestamp() END,
    run_at = CASE WHEN a.state = 'scheduled'
                  THEN clock_timestamp() + a.delay_s * interval '1 second' ELSE j.run_at END,
    snoozes = CASE WHEN a.uncounted = 1 THEN j.snoozes + 1 ELSE 0 END,
    snoozed_since = CASE WHEN a.uncounted = 1
                         THEN coalesce(j.snoozed_since, clock_timestamp()) END,
    reason = CASE a.state
        WHEN 'cancelled' THEN coalesce(j.reason, 'cancelled while running')
        WHEN 'failed' THEN 'snoozed repeatedly since '
            || to_char(j.snoozed_since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"')
            || ', which is longer than ' || round(CAST(:snooze_max_s AS numeric))
            || ' s; last: ' || a.reason
        ELSE a.reason END,
    error = a.error
FROM asked AS a
WHERE j.id = a.id AND j.owner IS NOT NULL
RETURNING j.id, j.state <> 'scheduled' AS is_over, j.callback_url IS NOT NULL AS calls_back

-- name: release
-- running -> ready or cancelled: given back before it had an effect; costs no attempt. Cancelled
-- where that was asked for.
UPDATE relais.jobs AS j
SET state = CASE WHEN j.cancel_requested_at IS NULL THEN 'ready' ELSE 'cancelled' END
            ::relais.job_state,
    ready_at = CASE WHEN j.cancel_requested_at IS NULL THEN clock_timestamp() END,
    finished_at = CASE WHEN j.cancel_requested_at IS NOT NULL THEN clock_timestamp() END,
    owner = NULL, lease_until = NULL, snoozes = 0, uncounted = j.uncounted + 1,
    reason = CASE WHEN j.cancel_requested_at IS NULL THEN d.reason
                  ELSE coalesce(j.reason, 'cancelled while running') END
FROM json_to_recordset(:rows) AS d (id uuid, attempt int, reason text)
WHERE j.id = d.id AND j.attempt = d.attempt AND j.owner IS NOT NULL
RETURNING j.id, j.state = 'cancelled' AS is_over, j.callback_url IS NOT NULL AS calls_back

-- name: release_strays
-- running -> ready or cancelled: claims that their owner does not hold (a COMMIT whose answer was
-- lost, or that came late); it never ran them. `since` bounds the look to claims that can be news.
UPDATE relais.jobs AS j
SET state = CASE WHEN j.cancel_requested_at IS NULL THEN 'ready' ELSE 'cancelled' END
            ::relais.job_state,
    ready_at = CASE WHEN j.cancel_requested_at IS NULL THEN clock_timestamp() END,
    finished_at = CASE WHEN j.cancel_requested_at IS NOT NULL THEN clock_timestamp() END,
    owner = NULL, lease_until = NULL, snoozes = 0, uncounted = j.uncounted + 1,
    reason = CASE WHEN j.cancel_requested_at IS NULL THEN 'its claim was never confirmed'
                  ELSE coalesce(j.reason, 'cancelled while running') END
WHERE j.id = ANY(ARRAY(
    SELECT id FROM relais.jobs
    WHERE state = 'running' AND owner = :owner
      AND started_at >= statement_timestamp() - :since_s * interval '1 second'
      AND (id, attempt) NOT IN (
          SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])))
    FOR UPDATE SKIP LOCKED
))
RETURNING j.id, j.state = 'cancelled' AS is_over

-- name: quarantine
-- running -> failed: the third process of its own died under it, and nobody else's.
UPDATE relais.jobs AS j
SET state = 'failed', finished_at = clock_timestamp(), owner = NULL, lease_until = NULL,
    deaths = j.deaths + 1, death_attempts = j.death_attempts || j.attempt,
    reason = 'poison: it ended the process of its own that ran it, '
        || j.deaths + 1 || ' times (attempts '
        || array_to_string(j.death_attempts || j.attempt, ', ') || '); last: ' || :reason
WHERE j.id = ANY(ARRAY(
    SELECT id FROM relais.jobs
    WHERE owner IS NOT NULL AND deaths >= 2 AND id = ANY(CAST(:died AS uuid[]))
      AND (id, attempt) IN (SELECT * FROM unnest(CAST(:died AS uuid[]),
                                                 CAST(:died_attempts AS int[])))
    ORDER BY id FOR UPDATE SKIP LOCKED
))
RETURNING j.id, j.queue, j.kind

-- name: reclaim
-- running -> ready or cancelled: its worker died or fell silent, or its own process did; it runs
-- alone from now on. Only a death of its own process counts against it (`is_counted`).
UPDATE relais.jobs AS j
SET state = CASE WHEN j.cancel_requested_at IS NULL THEN 'ready' ELSE 'cancelled' END
            ::relais.job_state,
    ready_at = CASE WHEN j.cancel_requested_at IS NULL THEN clock_timestamp() END,
    finished_at = CASE WHEN j.cancel_requested_at IS NOT NULL THEN clock_timestamp() END,
    owner = NULL, lease_until = NULL, snoozes = 0, uncounted = j.uncounted + 1, alone = true,
    deaths = j.deaths + CASE WHEN :is_counted THEN 1 ELSE 0 END,
    death_attempts = CASE WHEN :is_counted THEN j.death_attempts || j.attempt
                          ELSE j.death_attempts END,
    reason = CASE WHEN j.cancel_requested_at IS NULL THEN :reason
                  ELSE coalesce(j.reason, 'cancelled while running') END
WHERE j.id = ANY(ARRAY(
    SELECT id FROM relais.jobs
    WHERE owner IS NOT NULL AND id = ANY(ARRAY(
        (SELECT id FROM relais.jobs
         WHERE state = 'running' AND owner = ANY(CAST(:dead AS uuid[])) LIMIT 5000)
      UNION ALL
        (SELECT id FROM relais.jobs
         WHERE state = 'running' AND owner = ANY(CAST(:overdue AS uuid[]))
           AND lease_until < statement_timestamp() LIMIT 5000)
      UNION ALL
        SELECT j.id FROM unnest(CAST(:died AS uuid[]), CAST(:died_attempts AS int[]))
            AS d (id, attempt)
        JOIN relais.jobs AS j ON j.id = d.id AND j.attempt = d.attempt AND j.owner IS NOT NULL
    ))
      -- Once more under the lock: whoever finished meanwhile, or went on elsewhere, is left alone.
      AND (owner = ANY(CAST(:dead AS uuid[]))
           OR (owner = ANY(CAST(:overdue AS uuid[])) AND lease_until < statement_timestamp())
           OR (id, attempt) IN (SELECT * FROM unnest(CAST(:died AS uuid[]),
                                                   CAST(:died_attempts AS int[]))))
    LIMIT 5000 FOR UPDATE SKIP LOCKED
))
RETURNING j.id, j.queue, j.kind, j.state = 'cancelled' AS is_over

-- name: cancel
-- blocked, scheduled or ready -> cancelled.
UPDATE relais.jobs
SET state = 'cancelled', finished_at = clock_timestamp(), ready_at = NULL, reason = :reason
WHERE id = :id AND tenant = :tenant AND state IN ('blocked', 'scheduled', 'ready')
RETURNING id

-- name: request_cancel
-- running stays running; its worker is asked to stop before the next irreversible step, and
-- whatever would have run it again cancels it instead.
UPDATE relais.jobs
SET cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp()), reason = :reason
WHERE id = :id AND tenant = :tenant AND owner IS NOT NULL
RETURNING id

-- name: retry
-- failed, cancelled or unknown -> ready or blocked: with a full set of attempts; blocked where a
-- parent is open or is being retried too. The caller has locked the parents, then these.
WITH chosen AS MATERIALIZED (
    SELECT id FROM relais.jobs
    WHERE id = ANY(CAST(:ids AS uuid[])) AND tenant = :tenant
      AND state IN ('failed', 'cancelled', 'unknown')
), links AS (
    SELECT link.child_id, link.parent_id,
           coalesce(parent.finished_at IS NULL OR parent.state = 'unknown'
                    OR parent.id IN (SELECT id FROM chosen), false) AS is_open
    FROM relais.job_parents AS link
    LEFT JOIN relais.jobs AS parent ON parent.id = link.parent_id
    WHERE link.child_id = ANY(ARRAY(SELECT id FROM chosen))
), relinked AS (
    UPDATE relais.job_parents AS link SET is_open = links.is_open
    FROM links WHERE link.child_id = links.child_id AND link.parent_id = links.parent_id
      AND link.is_open IS DISTINCT FROM links.is_open
), open AS (
    SELECT child_id, count(*) AS parents FROM links WHERE is_open GROUP BY child_id
)
UPDATE relais.jobs AS j
SET state = CASE WHEN open.parents > 0 THEN 'blocked' ELSE 'ready' END::relais.job_state,
    ready_at = CASE WHEN open.parents > 0 THEN NULL ELSE clock_timestamp() END,
    waits_for = coalesce(open.parents, 0), run_at = clock_timestamp(), finished_at = NULL,
    uncounted = j.attempt, deaths = 0, death_attempts = '{}', alone = false, snoozes = 0,
    snoozed_since = NULL, deadline = NULL, cancel_requested_at = NULL, error = NULL,
    reason = :reason
FROM chosen LEFT JOIN open ON open.child_id = chosen.id
WHERE j.id = chosen.id
RETURNING j.id, j.queue, j.kind, j.state

-- name: resolve
-- unknown -> succeeded or failed: a person knows what happened.
UPDATE relais.jobs
SET state = CAST(:state AS relais.job_state), reason = :reason
WHERE id = :id AND tenant = :tenant AND state = 'unknown'
RETURNING id

-- name: expire_unknown_kinds
-- ready -> failed: no worker has known its kind for so long.
UPDATE relais.jobs AS j
SET state = 'failed', finished_at = clock_timestamp(), ready_at = NULL,
    reason = 'no worker has known the kind ' || j.kind || ' for ' || round(CAST(:older_than_s AS numeric)) || ' s'
WHERE j.id = ANY(ARRAY(
    SELECT old.id
    FROM (SELECT * FROM relais.lanes AS l
          WHERE NOT EXISTS (SELECT FROM relais.workers AS w WHERE l.kind = ANY(w.kinds))) AS l
    CROSS JOIN LATERAL (
        SELECT id FROM relais.jobs
        WHERE queue = l.queue AND lane = l.lane AND kind = l.kind AND priority = l.priority
          AND state = 'ready'
          AND ready_at < statement_timestamp() - :older_than_s * interval '1 second'
        ORDER BY ready_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ) AS old
    LIMIT :limit
))
RETURNING j.id

-- name: extend_leases
-- Extend the leases of long-running jobs that a live worker really holds; not a state change. Row by
-- row, by key, whatever the planner estimates. A locked row is being finished: waiting for it could
-- deadlock, and cost the worker its proof of life.
UPDATE relais.jobs
SET lease_until = statement_timestamp() + :lease_s * interval '1 second'
WHERE id = ANY(ARRAY(
    SELECT due.id FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS held (id, attempt)
    CROSS JOIN LATERAL (
        SELECT j.id FROM relais.jobs AS j
        WHERE j.id = held.id AND j.attempt = held.attempt AND j.owner IS NOT NULL
          AND j.lease_until < statement_timestamp() + :lease_s * 0.7 * interval '1 second'
        FOR UPDATE SKIP LOCKED
    ) AS due
))

-- name: asked_to_stop
-- Which of these attempts should stop.
SELECT asked.id, asked.attempt
FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS held (id, attempt)
CROSS JOIN LATERAL (
    SELECT j.id, j.attempt FROM relais.jobs AS j
    WHERE j.id = held.id AND j.attempt = held.attempt AND j.owner IS NOT NULL
      AND j.cancel_requested_at IS NOT NULL
    OFFSET 0
) AS asked
