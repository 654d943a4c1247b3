-- Deletes what has been kept for long enough. ledger/retention.py runs these by name.

-- name: prune_jobs
-- Expired finished jobs. Failed and unknown ones may still be fixed by a person, so they are kept
-- as long as history is. A parent stays while a child is open.
-- `after` is where the last slice ended: jobs that stay are not looked at again by every slice.
WITH seen AS MATERIALIZED (
    SELECT id, state, finished_at FROM relais.jobs
    WHERE finished_at < statement_timestamp() - :finished_s * interval '1 second'
      AND finished_at >= coalesce(CAST(:after AS timestamptz), '-infinity')
      AND (finished_at, id) > (coalesce(CAST(:after AS timestamptz), '-infinity'),
                               CAST(:after_id AS uuid))
    ORDER BY finished_at, id LIMIT :limit
), gone AS (DELETE FROM relais.jobs WHERE id = ANY(ARRAY(
    SELECT j.id FROM relais.jobs AS j
    WHERE j.id = ANY(ARRAY(
        SELECT s.id FROM seen AS s
        WHERE s.state IN ('succeeded', 'cancelled')
           OR s.finished_at < statement_timestamp() - :shelf_s * interval '1 second'
    ))
      -- Once more, for one that is retried at this very moment.
      AND j.finished_at < statement_timestamp() - :finished_s * interval '1 second'
      AND NOT EXISTS (
          SELECT FROM relais.job_parents AS link
          JOIN relais.jobs AS child ON child.id = link.child_id
          WHERE link.parent_id = j.id AND child.finished_at IS NULL
      )
    FOR UPDATE OF j SKIP LOCKED
))
RETURNING id
), bodies AS (DELETE FROM relais.job_bodies USING gone WHERE job_bodies.job_id = gone.id)
SELECT (SELECT count(*) FROM seen) AS looked_at, (SELECT count(*) FROM gone) AS removed,
       (SELECT max(finished_at) FROM seen) AS until,
       (SELECT id FROM seen ORDER BY finished_at DESC, id DESC LIMIT 1) AS until_id

-- name: prune_system_jobs
-- Relais' own jobs (a canary every few seconds) are deleted soon, with their history.
WITH pruned AS (
    DELETE FROM relais.jobs WHERE id = ANY(ARRAY(
        SELECT id FROM relais.jobs
        WHERE tenant = :system AND id < CAST(:before AS uuid) AND finished_at IS NOT NULL
          AND (state = 'succeeded'
               OR finished_at < statement_timestamp() - :shelf_s * interval '1 second')
        ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
    ))
    RETURNING id
), history AS (
    DELETE FROM relais.job_events USING pruned
    WHERE job_events.job_id = pruned.id
), bodies AS (
    DELETE FROM relais.job_bodies USING pruned WHERE job_bodies.job_id = pruned.id
)
SELECT count(*) FROM pruned

-- name: prune_messages
-- Messages go with the history of their job, never before the job itself. `after_id` is where the
-- last slice ended: those whose job still exists are not looked at again by every slice.
WITH seen AS MATERIALIZED (
    SELECT id, job_id, changed_at FROM relais.messages
    WHERE id > CAST(:after_id AS uuid) AND id < CAST(:before AS uuid)
    ORDER BY id LIMIT :limit
), gone AS (DELETE FROM relais.messages WHERE id = ANY(ARRAY(
    SELECT m.id FROM relais.messages AS m
    WHERE m.id = ANY(ARRAY(
        SELECT s.id FROM seen AS s
        WHERE s.changed_at < statement_timestamp() - :events_s * interval '1 second'
          AND (SELECT j.id FROM relais.jobs AS j WHERE j.id = s.job_id) IS NULL
    ))
    FOR UPDATE SKIP LOCKED
))
RETURNING id
)
SELECT (SELECT count(*) FROM seen) AS looked_at, (SELECT count(*) FROM gone) AS removed,
       (SELECT id FROM seen ORDER BY id DESC LIMIT 1) AS until_id

-- name: prune_ticks
-- Old ticks; the newest of each schedule stays, or it would be fired again.
DELETE FROM relais.schedule_ticks AS t
WHERE (t.schedule, t.nominal_at) IN (
    SELECT old.schedule, old.nominal_at FROM relais.schedule_ticks AS old
    WHERE old.fired_at < statement_timestamp() - :kept_s * interval '1 second'
      AND (old.tenant = :system) = :is_system
      AND EXISTS (
          SELECT FROM relais.schedule_ticks AS newer
          WHERE newer.schedule = old.schedule AND newer.nominal_at > old.nominal_at
      )
    LIMIT :limit FOR UPDATE OF old SKIP LOCKED
)

-- name: now_ms
SELECT (extract(epoch FROM statement_timestamp()) * 1000)::bigint
