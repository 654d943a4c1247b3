-- Statements of the release before lanes and bodies of their own, word for word. They are kept to
-- prove that the release goes on working while the ledger is upgraded; lab/bench/old_release.py runs
-- them. They go with that release.

-- name: accept
-- Insert jobs; one whose idempotency key is taken is left out.
INSERT INTO relais.jobs (
    id, tenant, kind, queue, state, priority, payload, run_at, max_attempts, timeout_s, backoff,
    idempotency_key, request_hash, callback_url, workflow_id, tags, traceparent, trace_id,
    accepted_by, on_parent_failure
)
SELECT
    j.id, j.tenant, j.kind, j.queue,
    CASE
        WHEN j.blocked THEN 'blocked'
        WHEN coalesce(j.run_at, clock_timestamp() + j.delay_s * interval '1 second')
             > clock_timestamp() THEN 'scheduled'
        ELSE 'ready'
    END::relais.job_state,
    j.priority, j.payload,
    coalesce(j.run_at, clock_timestamp() + coalesce(j.delay_s, 0) * interval '1 second'),
    j.max_attempts, j.timeout_s, j.backoff, j.idempotency_key, decode(j.request_hash, 'hex'),
    j.callback_url, j.workflow_id, coalesce(j.tags, '{}'), j.traceparent, j.trace_id,
    j.accepted_by, j.on_parent_failure
FROM json_to_recordset(:jobs) AS j (
    id uuid, tenant text, kind text, queue text, blocked boolean, priority smallint,
    payload jsonb, run_at timestamptz, delay_s float8, max_attempts smallint, timeout_s float8,
    backoff jsonb, idempotency_key text, request_hash text, callback_url text, workflow_id text,
    tags text[], traceparent text, trace_id text, accepted_by text, on_parent_failure text
)
ON CONFLICT (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
RETURNING id, state, created_at, run_at

-- name: adopt_parents
-- Mark parents, so that their finish looks for children; locks them against finishing meanwhile.
-- No join in the locking part: where two of its rows were locked and changed by others, Postgres
-- would find only the first again (the caller compares ids with tenants).
UPDATE relais.jobs SET has_children = true
WHERE id = ANY(ARRAY(
    SELECT id FROM relais.jobs
    WHERE id = ANY(CAST(:ids AS uuid[])) AND tenant = ANY(CAST(:tenants AS text[]))
    ORDER BY id FOR NO KEY UPDATE
))
RETURNING id, tenant, state

-- name: link_parents
-- Remember which parents a child waits for.
INSERT INTO relais.job_parents (child_id, parent_id)
SELECT * FROM unnest(CAST(:children AS uuid[]), CAST(:parents AS uuid[]))

-- name: claim
-- ready -> running: of one queue, most urgent first, then longest waiting.
UPDATE relais.jobs AS j
SET state = 'running', attempt = j.attempt + 1, owner = :owner,
    lease_until = clock_timestamp() + :lease_s * interval '1 second',
    started_at = clock_timestamp(), worker = :worker, colour = :colour, version = :version,
    reason = NULL, error = NULL
WHERE j.id = ANY(ARRAY(
    SELECT id FROM relais.jobs
    WHERE queue = :queue AND state = 'ready'
      AND NOT EXISTS (SELECT FROM relais.queues AS q
                      WHERE q.name = :queue AND q.paused_at IS NOT NULL)
    ORDER BY priority DESC, run_at, id
    LIMIT :limit FOR UPDATE SKIP LOCKED
))
RETURNING j.id, j.attempt, j.kind, j.queue, j.tenant, j.payload, j.priority, j.max_attempts,
          j.uncounted, j.timeout_s, j.backoff, j.alone, j.deaths, j.workflow_id, j.tags,
          j.traceparent, j.run_at, j.started_at

-- name: succeed
-- running -> succeeded.
UPDATE relais.jobs AS j
SET state = 'succeeded', finished_at = clock_timestamp(), owner = NULL, lease_until = NULL,
    result = d.result, reason = NULL, error = NULL
FROM json_to_recordset(:rows) AS d (id uuid, attempt int, result jsonb)
WHERE j.id = d.id AND j.attempt = d.attempt AND j.state = 'running'
RETURNING j.id

-- name: defer
-- running -> scheduled: a retry (costs an attempt) or a snooze (uncounted = 1: costs none).
UPDATE relais.jobs AS j
SET state = 'scheduled', run_at = clock_timestamp() + d.delay_s * interval '1 second',
    owner = NULL, lease_until = NULL, uncounted = j.uncounted + d.uncounted,
    reason = d.reason, error = d.error
FROM json_to_recordset(:rows)
    AS d (id uuid, attempt int, delay_s float8, uncounted int, reason text, error jsonb)
WHERE j.id = d.id AND j.attempt = d.attempt AND j.state = 'running'
RETURNING j.id

-- name: promote
-- scheduled -> ready: the time has come.
UPDATE relais.jobs AS j
SET state = 'ready', reason = NULL
WHERE j.id = ANY(ARRAY(
    SELECT id FROM relais.jobs
    WHERE queue = :queue AND state = 'scheduled' AND run_at <= clock_timestamp()
    ORDER BY run_at LIMIT :limit FOR UPDATE SKIP LOCKED
))
RETURNING j.id

-- name: lock_children
-- Of two parents that finish at once, the second waits here and then sees the first one's end.
SELECT child.id FROM relais.jobs AS child
JOIN relais.job_parents AS link ON link.child_id = child.id
WHERE link.parent_id = ANY(CAST(:parents AS uuid[])) AND child.state = 'blocked'
ORDER BY child.id FOR UPDATE OF child

-- name: unblock
-- blocked -> ready or scheduled: every parent succeeded (or is over, where the caller chose so).
UPDATE relais.jobs AS j
SET state = CASE WHEN j.run_at > clock_timestamp() THEN 'scheduled' ELSE 'ready' END
            ::relais.job_state
WHERE j.state = 'blocked'
  AND j.id = ANY(CAST(:children AS uuid[]))
  AND NOT EXISTS (
      SELECT FROM relais.job_parents AS link
      JOIN relais.jobs AS parent ON parent.id = link.parent_id
      WHERE link.child_id = j.id
        AND parent.state <> 'succeeded'
        AND NOT (j.on_parent_failure = 'release' AND parent.state IN ('failed', 'cancelled'))
  )
RETURNING j.id, j.state, j.queue, j.kind

-- name: fail_children
-- blocked -> failed or cancelled, after a parent that ended so.
UPDATE relais.jobs AS j
SET state = parent.state, finished_at = clock_timestamp(),
    reason = 'parent job ' || parent.id || ' ' || parent.state
FROM relais.job_parents AS link
JOIN relais.jobs AS parent ON parent.id = link.parent_id
WHERE link.parent_id = ANY(CAST(:parents AS uuid[])) AND j.id = link.child_id
  AND j.state = 'blocked' AND j.on_parent_failure = 'fail'
  AND parent.state IN ('failed', 'cancelled')
RETURNING j.id, j.state

-- name: finished_with_consequences
-- Of these finished jobs, the ones with children or a callback.
SELECT id, tenant, kind, queue, state, attempt, reason, result, callback_url, workflow_id, tags,
       traceparent, trace_id, has_children, created_at, finished_at
FROM relais.jobs
WHERE id = ANY(CAST(:ids AS uuid[])) AND (has_children OR callback_url IS NOT NULL)
