-- What the relays told us. ledger/relay_states.py runs these by name.

-- name: look
-- Relays that are stopped, backing off, or have not yet recovered from backing off.
SELECT r.tenant, r.name, r.stopped_at IS NOT NULL AS is_stopped, r.stopped_login, r.backoff_step,
       r.reason,
       coalesce(greatest(0, extract(epoch FROM r.backoff_until - clock_timestamp())), 0)::float8
           AS backoff_s
FROM relais.relay_states AS r
JOIN unnest(CAST(:tenants AS text[]), CAST(:names AS text[])) AS d (tenant, name)
  ON d.tenant = r.tenant AND d.name = r.name

-- name: list
-- Everything known about one tenant's relays.
SELECT name, stopped_at, backoff_until, backoff_step, reason, changed_at
FROM relais.relay_states WHERE tenant = :tenant ORDER BY name

-- name: stop
-- The relay refused our login: nobody sends through it until someone resumes it.
INSERT INTO relais.relay_states AS r (tenant, name, stopped_at, stopped_login, reason)
VALUES (:tenant, :name, clock_timestamp(), :login, :reason)
ON CONFLICT (tenant, name) DO UPDATE
SET stopped_at = coalesce(r.stopped_at, excluded.stopped_at), reason = excluded.reason,
    stopped_login = excluded.stopped_login, changed_at = clock_timestamp()

-- name: resume
-- Forget a stop and any backing off.
UPDATE relais.relay_states
SET stopped_at = NULL, stopped_login = NULL, backoff_until = NULL, backoff_step = 0,
    reason = NULL, changed_at = clock_timestamp()
WHERE tenant = :tenant AND name = :name
  AND (stopped_at IS NOT NULL OR backoff_until IS NOT NULL)
RETURNING name

-- name: resume_with_new_login
-- Forget a stop that was another login's.
UPDATE relais.relay_states
SET stopped_at = NULL, stopped_login = NULL, reason = NULL, changed_at = clock_timestamp()
WHERE tenant = :tenant AND name = :name AND stopped_at IS NOT NULL
  AND stopped_login IS DISTINCT FROM :login
RETURNING name

-- name: back_off
-- Wait, twice as long each time; the many that hear of the same trouble count as one.
INSERT INTO relais.relay_states AS r (tenant, name, backoff_until, backoff_step, reason)
VALUES (:tenant, :name, clock_timestamp() + least(:cap_s, :base_s) * interval '1 second', 1,
        :reason)
ON CONFLICT (tenant, name) DO UPDATE
SET backoff_until = clock_timestamp()
        + least(:cap_s, :base_s * power(2, least(r.backoff_step, 20))) * interval '1 second',
    backoff_step = least(r.backoff_step, 20) + 1, reason = excluded.reason,
    changed_at = clock_timestamp()
WHERE r.backoff_until IS NULL OR r.backoff_until <= clock_timestamp()

-- name: recover
-- The relay took a message: the next trouble starts from the shortest wait.
UPDATE relais.relay_states
SET backoff_until = NULL, backoff_step = 0, changed_at = clock_timestamp(),
    reason = CASE WHEN stopped_at IS NULL THEN NULL ELSE reason END
WHERE tenant = :tenant AND name = :name AND backoff_step > 0
  AND (backoff_until IS NULL OR backoff_until <= clock_timestamp())
