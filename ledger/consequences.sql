-- What the end of a job means for the jobs that wait for it, and for its callback.
-- ledger/consequences.py, parents.py and transitions.py run these by name.

-- name: lock_parents
-- Current states of parents, locked so that they cannot finish meanwhile; siblings share the lock.
-- Never waits: holding one lock while waiting for another could deadlock with a batch of finishes,
-- which locks in no particular order.
SELECT id, tenant, state FROM relais.jobs WHERE id = ANY(CAST(:ids AS uuid[]))
ORDER BY id FOR SHARE NOWAIT

-- name: link_parents
-- Record which parents a child waits for, and which have already ended.
INSERT INTO relais.job_parents (child_id, parent_id, is_open)
SELECT * FROM unnest(
    CAST(:children AS uuid[]), CAST(:parents AS uuid[]), CAST(:are_open AS bool[])
)

-- name: lock_waiting
-- Children that are about to be moved, in a fixed order. A separate statement: one that waits for a
-- lock and then joins would see the rows as they were before.
SELECT id FROM relais.jobs
WHERE id = ANY(CAST(:ids AS uuid[])) AND state = 'blocked'
ORDER BY id FOR NO KEY UPDATE

-- name: find_doomed
-- Jobs that wait, over any number of links, for one of these parents that failed or was cancelled,
-- and must not run without it; and because of which parent. `children`: whose links were closed.
WITH RECURSIVE doomed (id, parent_id, state) AS (
    SELECT child.id, parent.id, parent.state
    FROM relais.jobs AS parent
    JOIN relais.job_parents AS link ON link.parent_id = parent.id
    JOIN relais.jobs AS child ON child.id = link.child_id
    WHERE parent.id = ANY(CAST(:parents AS uuid[])) AND parent.state IN ('failed', 'cancelled')
      AND child.id = ANY(CAST(:children AS uuid[]))
      AND child.state = 'blocked' AND child.on_parent_failure = 'fail'
  UNION
    SELECT child.id, doomed.id, doomed.state
    FROM doomed
    JOIN relais.job_parents AS link ON link.parent_id = doomed.id AND link.is_open
    JOIN relais.jobs AS child ON child.id = link.child_id
    WHERE child.state = 'blocked' AND child.on_parent_failure = 'fail'
)
SELECT DISTINCT ON (id) id, parent_id, state FROM doomed ORDER BY id, parent_id

-- name: fail_children
-- blocked -> failed or cancelled, as the parent was. The caller has locked them.
UPDATE relais.jobs AS j
SET state = why.state::relais.job_state, finished_at = clock_timestamp(), waits_for = 0,
    reason = 'parent job ' || why.parent_id || ' ' || why.state
FROM unnest(CAST(:ids AS uuid[]), CAST(:parents AS uuid[]), CAST(:states AS text[]))
    AS why (id, parent_id, state)
WHERE j.id = why.id AND j.state = 'blocked'
RETURNING j.id

-- name: close_links
-- These parents have ended: how many open links each child loses. Each link is closed once; one to
-- an unknown parent stays open until that is settled.
WITH closed AS (
    UPDATE relais.job_parents AS link SET is_open = false
    WHERE link.parent_id = ANY(CAST(:parents AS uuid[])) AND link.is_open
      AND NOT EXISTS (SELECT FROM relais.jobs AS parent
                      WHERE parent.id = link.parent_id AND parent.state = 'unknown')
    RETURNING link.child_id
)
SELECT child_id AS id, count(*) AS links FROM closed GROUP BY child_id

-- name: free_children
-- blocked -> ready or scheduled, where the last parent is over. The caller has locked them.
UPDATE relais.jobs AS j
SET waits_for = greatest(0, j.waits_for - fewer.links),
    state = CASE WHEN j.waits_for > fewer.links THEN 'blocked'
                 WHEN j.run_at > statement_timestamp() THEN 'scheduled'
                 ELSE 'ready' END::relais.job_state,
    ready_at = CASE WHEN j.waits_for <= fewer.links AND j.run_at <= statement_timestamp()
                    THEN clock_timestamp() END
FROM unnest(CAST(:ids AS uuid[]), CAST(:links AS int[])) AS fewer (id, links)
WHERE j.id = fewer.id AND j.state = 'blocked'
RETURNING j.id, j.state, j.queue, j.kind

-- name: parents_left_behind
-- Parents that have ended (or are gone) without moving their blocked children: they ended in code of
-- the previous release, which does not maintain open links.
SELECT DISTINCT link.parent_id AS id
FROM (SELECT id FROM relais.jobs WHERE state = 'blocked' AND id > :after
      ORDER BY id LIMIT :limit) AS child
-- By child, one probe each: with a join the planner may choose to read every link.
CROSS JOIN LATERAL (
    SELECT parent_id FROM relais.job_parents WHERE child_id = child.id AND is_open OFFSET 0
) AS link
LEFT JOIN relais.jobs AS parent ON parent.id = link.parent_id
WHERE parent.id IS NULL OR (parent.finished_at IS NOT NULL AND parent.state <> 'unknown')

-- name: last_blocked
-- Where a slice of blocked jobs ends.
SELECT max(id::text)::uuid FROM (
    SELECT id FROM relais.jobs WHERE state = 'blocked' AND id > :after ORDER BY id LIMIT :limit
) AS child

-- name: parents_of
-- Parents that these jobs may have to wait for.
SELECT DISTINCT parent_id FROM relais.job_parents WHERE child_id = ANY(CAST(:ids AS uuid[]))

-- name: callbacks_of
-- Of these jobs, which have ended, the ones with a callback.
SELECT j.id, j.tenant, j.kind, j.queue, j.state, j.attempt, j.reason, body.result,
       j.callback_url, j.workflow_id, j.tags, j.traceparent, j.trace_id, j.created_at,
       j.finished_at
FROM relais.jobs AS j LEFT JOIN relais.job_bodies AS body ON body.job_id = j.id
WHERE j.id = ANY(CAST(:ids AS uuid[])) AND j.callback_url IS NOT NULL

-- name: state_of
-- The state of one job of a tenant.
SELECT state FROM relais.jobs WHERE tenant = :tenant AND id = :id
