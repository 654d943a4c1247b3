-- Making the ticks of users' schedules jobs. ledger/due.py runs these by name.

-- name: enabled
-- Without their jobs, which `fire` reads afresh.
SELECT id, cron, timezone, changed_at, fired_until FROM relais.schedules WHERE enabled

-- name: fingerprint
-- Says whether `enabled` would answer differently than before, without reading it all.
SELECT statement_timestamp() AS now, count(*) AS schedules,
       coalesce(sum(extract(epoch FROM changed_at)), 0) AS changes
FROM relais.schedules WHERE enabled

-- name: not_for_long
-- A beat that is frozen in the middle holds up the others for no longer than this.
SELECT set_config('idle_in_transaction_session_timeout', '2s', true),
       set_config('lock_timeout', '2s', true)

-- name: lock
-- Those that nobody else is firing or changing; the others are looked at again.
SELECT id, enabled, cron, timezone, fired_until, octet_length(job::text) AS bytes
FROM relais.schedules WHERE id = ANY(CAST(:ids AS uuid[]))
ORDER BY id FOR UPDATE SKIP LOCKED

-- name: jobs
-- What becomes of a tick.
SELECT id, tenant, name, job FROM relais.schedules WHERE id = ANY(CAST(:ids AS uuid[]))

-- name: deal_with
-- These nominal times are done with.
UPDATE relais.schedules AS s SET fired_until = d.nominal_at
FROM unnest(CAST(:ids AS uuid[]), CAST(:nominal AS timestamptz[])) AS d (id, nominal_at)
WHERE s.id = d.id
