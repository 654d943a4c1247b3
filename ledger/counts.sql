-- How many jobs there are, without counting them. ledger/counts.py runs these by name.

-- name: read
-- Rolled-up counts and the deltas since, by queue and state; of one tenant or of all.
SELECT queue, state, sum(jobs)::bigint AS jobs FROM (
    SELECT queue, state, jobs FROM relais.job_counts
    WHERE CAST(:tenant AS text) IS NULL OR tenant = :tenant
    UNION ALL
    SELECT queue, state, jobs FROM relais.job_count_deltas
    WHERE CAST(:tenant AS text) IS NULL OR tenant = :tenant
) AS every GROUP BY queue, state HAVING sum(jobs) <> 0
ORDER BY queue, state

-- name: roll_up
-- Add deltas to the counts; several at once take different ones.
WITH taken AS (
    DELETE FROM relais.job_count_deltas WHERE id = ANY(ARRAY(
        SELECT id FROM relais.job_count_deltas ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
    ))
    RETURNING tenant, queue, state, jobs
), summed AS (
    INSERT INTO relais.job_counts AS c (tenant, queue, state, jobs)
    SELECT tenant, queue, state, sum(jobs) FROM taken GROUP BY tenant, queue, state
    ORDER BY tenant, queue, state
    ON CONFLICT (tenant, queue, state) DO UPDATE SET jobs = c.jobs + excluded.jobs
)
SELECT count(*) FROM taken
