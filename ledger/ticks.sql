-- Ticks of schedules. ledger/ticks.py runs these by name.

-- name: take
-- Take ticks; no row for one that was taken before.
INSERT INTO relais.schedule_ticks (schedule, nominal_at, tenant, job_id)
SELECT t.schedule, t.nominal_at, t.tenant, t.job_id
FROM unnest(CAST(:schedules AS text[]), CAST(:nominal AS timestamptz[]),
            CAST(:tenants AS text[]), CAST(:job_ids AS uuid[]))
    AS t (schedule, nominal_at, tenant, job_id)
ORDER BY t.schedule
ON CONFLICT (schedule, nominal_at) DO NOTHING
RETURNING job_id

-- name: is_under_way
-- Whether the job of the newest tick is still open, and not too old: an older one is stuck, and
-- does not block others.
SELECT EXISTS (
    SELECT FROM relais.jobs
    WHERE finished_at IS NULL
      AND created_at > statement_timestamp() - :stuck_s * interval '1 second'
      AND id = (
        SELECT job_id FROM relais.schedule_ticks
        WHERE schedule = :schedule ORDER BY nominal_at DESC LIMIT 1
    )
)

-- name: make_tenant
INSERT INTO relais.tenants (name) VALUES (:name) ON CONFLICT DO NOTHING

-- name: now
SELECT statement_timestamp()
