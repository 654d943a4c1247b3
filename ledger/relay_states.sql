-- What the relays told us, and what follows for the lanes of their emails: a lane is paused while
-- its relay must not be used. ledger/relay_states.py runs these by name.
-- A pause set by someone else is never touched.

-- name: look
-- Relays that are stopped, backing off, or have not yet recovered from backing off.
SELECT r.tenant, r.name, r.stopped_at IS NOT NULL AS is_stopped, r.stopped_login, r.backoff_step,
       r.reason,
       coalesce(greatest(0, extract(epoch FROM r.backoff_until - statement_timestamp())), 0)::float8
           AS backoff_s,
       EXISTS (SELECT FROM relais.lane_settings AS s
               WHERE s.queue = '*' AND s.lane = d.lane AND s.paused_at IS NOT NULL
                 AND coalesce(s.paused_until > statement_timestamp(), true)) AS is_parked
FROM relais.relay_states AS r
JOIN unnest(CAST(:tenants AS text[]), CAST(:names AS text[]), CAST(:lanes AS text[]))
    AS d (tenant, name, lane)
  ON d.tenant = r.tenant AND d.name = r.name

-- name: list
-- Everything known about one tenant's relays.
SELECT name, stopped_at, backoff_until, backoff_step, reason, changed_at
FROM relais.relay_states WHERE tenant = :tenant ORDER BY name

-- name: stopped
-- Every relay that refused a login, and which.
SELECT tenant, name, stopped_login FROM relais.relay_states WHERE stopped_at IS NOT NULL

-- name: stop
-- The relay refused our login: nothing is sent through it until it is resumed.
INSERT INTO relais.relay_states AS r (tenant, name, stopped_at, stopped_login, reason)
VALUES (:tenant, :name, clock_timestamp(), :login, :reason)
ON CONFLICT (tenant, name) DO UPDATE
SET stopped_at = coalesce(r.stopped_at, excluded.stopped_at), reason = excluded.reason,
    stopped_login = excluded.stopped_login, changed_at = clock_timestamp()

-- name: back_off
-- Wait, twice as long each time; reports of the same trouble count once.
INSERT INTO relais.relay_states AS r (tenant, name, backoff_until, backoff_step, reason)
VALUES (:tenant, :name, clock_timestamp() + least(:cap_s, :base_s) * interval '1 second', 1,
        :reason)
ON CONFLICT (tenant, name) DO UPDATE
SET backoff_until = clock_timestamp()
        + least(:cap_s, :base_s * power(2, least(r.backoff_step, 20))) * interval '1 second',
    backoff_step = least(r.backoff_step, 20) + 1, changed_at = clock_timestamp(),
    reason = CASE WHEN r.stopped_at IS NULL THEN excluded.reason ELSE r.reason END
WHERE r.backoff_until IS NULL OR r.backoff_until <= statement_timestamp()

-- name: park
-- The lane is paused for as long as its relay is stopped or backing off.
INSERT INTO relais.lane_settings AS s (queue, lane, paused_at, paused_until, paused_by, reason)
SELECT '*', :lane, clock_timestamp(), CASE WHEN r.stopped_at IS NULL THEN r.backoff_until END,
       'relay', r.reason
FROM relais.relay_states AS r
WHERE r.tenant = :tenant AND r.name = :name
  AND (r.stopped_at IS NOT NULL OR r.backoff_until > statement_timestamp())
ON CONFLICT (queue, lane) DO UPDATE
SET paused_at = excluded.paused_at, paused_until = excluded.paused_until,
    paused_by = excluded.paused_by, reason = excluded.reason, changed_at = clock_timestamp()
WHERE s.paused_at IS NULL OR s.paused_until <= statement_timestamp()
   OR (s.paused_by = 'relay' AND s.paused_until IS DISTINCT FROM excluded.paused_until)

-- name: resume
-- Clear a stop and any backoff; wake the lane.
WITH resumed AS (
    UPDATE relais.relay_states
    SET stopped_at = NULL, stopped_login = NULL, backoff_until = NULL, backoff_step = 0,
        reason = NULL, changed_at = clock_timestamp()
    WHERE tenant = :tenant AND name = :name
      AND (stopped_at IS NOT NULL OR backoff_until IS NOT NULL)
    RETURNING name
), woken AS (
    UPDATE relais.lane_settings
    SET paused_at = NULL, paused_until = NULL, paused_by = NULL, reason = NULL,
        changed_at = clock_timestamp()
    WHERE queue = '*' AND lane = :lane AND paused_by = 'relay'
)
SELECT name FROM resumed

-- name: resume_with_new_login
-- Clear a stop that was another login's; wake the lane, or leave it to the rest of a backoff.
WITH resumed AS (
    UPDATE relais.relay_states
    SET stopped_at = NULL, stopped_login = NULL, reason = NULL, changed_at = clock_timestamp()
    WHERE tenant = :tenant AND name = :name AND stopped_at IS NOT NULL
      AND stopped_login IS DISTINCT FROM :login
    RETURNING name, backoff_until
), woken AS (
    UPDATE relais.lane_settings AS s
    SET paused_at = CASE WHEN r.backoff_until IS NOT NULL THEN s.paused_at END,
        paused_until = r.backoff_until,
        paused_by = CASE WHEN r.backoff_until IS NOT NULL THEN s.paused_by END,
        reason = NULL, changed_at = clock_timestamp()
    FROM resumed AS r
    WHERE s.queue = '*' AND s.lane = :lane AND s.paused_by = 'relay'
)
SELECT name FROM resumed

-- name: recover
-- The relay accepted a message: the next trouble starts from the shortest wait. The lane is awake.
WITH recovered AS (
    UPDATE relais.relay_states
    SET backoff_until = NULL, backoff_step = 0, changed_at = clock_timestamp(),
        reason = CASE WHEN stopped_at IS NULL THEN NULL ELSE reason END
    WHERE tenant = :tenant AND name = :name AND backoff_step > 0
      AND (backoff_until IS NULL OR backoff_until <= statement_timestamp())
    RETURNING stopped_at
)
UPDATE relais.lane_settings AS s
SET paused_at = NULL, paused_until = NULL, paused_by = NULL, reason = NULL,
    changed_at = clock_timestamp()
FROM recovered AS r
WHERE r.stopped_at IS NULL AND s.queue = '*' AND s.lane = :lane AND s.paused_by = 'relay'
