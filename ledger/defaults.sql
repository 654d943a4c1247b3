-- Values of variables that callers leave out. ledger/defaults.py runs these by name.

-- name: put
INSERT INTO relais.template_defaults (tenant, template, variable, value, changed_by)
SELECT CAST(:tenant AS text), :template, :variable, CAST(:value AS jsonb), :by
ON CONFLICT (tenant, template, variable) DO UPDATE
SET value = excluded.value, changed_by = excluded.changed_by, changed_at = clock_timestamp()
RETURNING id, tenant, template, variable, value, used, changed_at, changed_by

-- name: count
-- How many this tenant has; for null, everybody.
SELECT count(*) FROM relais.template_defaults
WHERE tenant IS NOT DISTINCT FROM CAST(:tenant AS text)

-- name: remove
DELETE FROM relais.template_defaults
WHERE tenant IS NOT DISTINCT FROM CAST(:tenant AS text)
  AND template = :template AND variable = :variable
RETURNING id

-- name: list
-- Those that a tenant's mails may use, its own and everybody's, in order of their variables.
SELECT id, tenant, template, variable, value, used, changed_at, changed_by
FROM relais.template_defaults
WHERE (tenant = :tenant OR tenant IS NULL)
  AND (CAST(:template AS text) IS NULL OR template = :template)
  AND (variable, id) > (:after, :after_id)
ORDER BY variable, id LIMIT :limit

-- name: look_up
-- What is set for these variables of one template, nearest first.
SELECT id, tenant, template, variable, value, used, changed_at, changed_by
FROM relais.template_defaults
WHERE (tenant = :tenant OR tenant IS NULL) AND template IN ('', :template)
  AND variable = ANY(:variables)
ORDER BY tenant IS NULL, template = '', variable

-- name: count_uses
-- How often each was used since the last time. Held in one order: two workers that count the same
-- ones never wait for each other in a circle.
WITH counted AS MATERIALIZED (
    SELECT t.id, d.uses FROM relais.template_defaults AS t
    JOIN json_to_recordset(:rows) AS d (id bigint, uses bigint) ON d.id = t.id
    ORDER BY t.id FOR NO KEY UPDATE OF t
)
UPDATE relais.template_defaults AS t SET used = t.used + counted.uses
FROM counted WHERE t.id = counted.id
