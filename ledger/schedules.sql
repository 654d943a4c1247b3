-- Users' schedules. ledger/schedules.py runs these by name.

-- name: create
-- A new schedule; no row: the name is taken. Nominal times before now are ignored.
INSERT INTO relais.schedules (id, tenant, name, cron, timezone, job, enabled, fired_until)
VALUES (:id, :tenant, :name, :cron, :timezone, CAST(:job AS jsonb), :enabled, clock_timestamp())
ON CONFLICT (tenant, name) DO NOTHING
RETURNING id, tenant, name, cron, timezone, job, enabled, created_at, changed_at, fired_until

-- name: get
SELECT id, tenant, name, cron, timezone, job, enabled, created_at, changed_at, fired_until
FROM relais.schedules WHERE id = :id AND tenant = :tenant

-- name: find
SELECT id, tenant, name, cron, timezone, job, enabled, created_at, changed_at, fired_until
FROM relais.schedules WHERE name = :name AND tenant = :tenant

-- name: list_all
SELECT id, tenant, name, cron, timezone, job, enabled, created_at, changed_at, fired_until
FROM relais.schedules
WHERE tenant = :tenant AND (CAST(:after AS text) IS NULL OR name > :after)
ORDER BY name LIMIT :limit

-- name: update
-- Change what is given. A schedule that starts or changes its times begins now: ticks missed
-- while it was off, or under its old times, are not made up.
UPDATE relais.schedules SET
    name = coalesce(:name, name), cron = coalesce(:cron, cron),
    timezone = coalesce(:timezone, timezone), job = coalesce(CAST(:job AS jsonb), job),
    enabled = coalesce(:enabled, enabled), changed_at = clock_timestamp(),
    fired_until = CASE
        WHEN (:enabled AND NOT enabled) OR :cron <> cron OR :timezone <> timezone
        THEN clock_timestamp() ELSE fired_until END
WHERE id = :id AND tenant = :tenant
  AND NOT EXISTS (SELECT FROM relais.schedules AS other
                  WHERE other.tenant = :tenant AND other.name = :name AND other.id <> :id)
RETURNING id, tenant, name, cron, timezone, job, enabled, created_at, changed_at, fired_until

-- name: delete
DELETE FROM relais.schedules WHERE id = :id AND tenant = :tenant RETURNING id
