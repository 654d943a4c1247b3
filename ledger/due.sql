-- Turning the ticks of users' schedules into jobs. ledger/due.py runs these by name.

-- name: enabled
-- Without their jobs, which `fire` reads afresh.
SELECT id, cron, timezone, changed_at, fired_until FROM relais.schedules WHERE enabled

-- name: fingerprint
-- Tells whether `enabled` would return something new, without reading it all.
SELECT statement_timestamp() AS now, count(*) AS schedules,
       coalesce(sum(extract(epoch FROM changed_at)), 0) AS changes
FROM relais.schedules WHERE enabled

-- name: not_for_long
-- A beat that freezes midway delays the others for no longer than this.
SELECT set_config('idle_in_transaction_session_timeout', '2s', true),
       set_config('lock_timeout', '2s', true)

-- name: lock
-- Those that no other transaction is firing or changing; the others are checked again later.
SELECT id, enabled, cron, timezone, fired_until, octet_length(job::text) AS bytes
FROM relais.schedules WHERE id = ANY(CAST(:ids AS uuid[]))
ORDER BY id FOR UPDATE SKIP LOCKED

-- name: jobs
-- The jobs of these schedules.
SELECT id, tenant, name, job FROM relais.schedules WHERE id = ANY(CAST(:ids AS uuid[]))

-- name: deal_with
-- These nominal times have been handled.
UPDATE relais.schedules AS s SET fired_until = d.nominal_at
FROM unnest(CAST(:ids AS uuid[]), CAST(:nominal AS timestamptz[])) AS d (id, nominal_at)
WHERE s.id = d.id
