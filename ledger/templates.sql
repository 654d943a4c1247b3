-- Stored templates of mails. ledger/templates.py runs these by name.

-- name: begin
-- The template's row, made where there is none, and held: one new version at a time.
INSERT INTO relais.templates AS t (tenant, name, latest, created_by)
VALUES (:tenant, :name, 0, :by)
ON CONFLICT (tenant, name) DO UPDATE SET latest = t.latest
RETURNING latest, archived_at

-- name: latest_sha256
SELECT sha256 FROM relais.template_versions
WHERE tenant = :tenant AND name = :name AND version = :version

-- name: add_version
INSERT INTO relais.template_versions (
    tenant, name, version, subject, html, mjml, compiled, text, is_text_derived, inlines_css,
    variables, mentions, sha256, created_by
)
VALUES (
    :tenant, :name, :version, :subject, :html, :mjml, :compiled, :text, :is_text_derived,
    :inlines_css, CAST(:variables AS jsonb), :mentions, :sha256, :by
)

-- name: point_to
-- The version that the template's name alone means; archived no more.
UPDATE relais.templates
SET latest = :version, changed_at = clock_timestamp(), archived_at = NULL
WHERE tenant = :tenant AND name = :name

-- name: archive
-- Nothing new is made from it; its versions stay.
UPDATE relais.templates SET archived_at = clock_timestamp(), changed_at = clock_timestamp()
WHERE tenant = :tenant AND name = :name AND archived_at IS NULL RETURNING name

-- name: find
SELECT t.name, t.latest, t.created_at, t.created_by, t.changed_at, t.archived_at
FROM relais.templates AS t WHERE t.tenant = :tenant AND t.name = :name AND t.latest > 0

-- name: find_version
-- One version; where `version` is null, the newest one.
SELECT v.tenant, v.name, v.version, v.subject, v.html, v.mjml, v.compiled, v.text,
       v.is_text_derived, v.inlines_css, v.variables, v.mentions, v.sha256, v.created_at,
       v.created_by, v.used_at, t.archived_at
FROM relais.templates AS t
JOIN relais.template_versions AS v
    ON v.tenant = t.tenant AND v.name = t.name AND v.version = coalesce(:version, t.latest)
WHERE t.tenant = :tenant AND t.name = :name

-- name: latest
-- Which version a name means now.
SELECT latest, archived_at FROM relais.templates
WHERE tenant = :tenant AND name = :name AND latest > 0

-- name: list
-- Templates in alphabetical order, after the last one of the page before.
SELECT t.name, t.latest, v.subject, t.created_at, t.created_by, t.changed_at, t.archived_at
FROM relais.templates AS t
JOIN relais.template_versions AS v
    ON v.tenant = t.tenant AND v.name = t.name AND v.version = t.latest
WHERE t.tenant = :tenant AND t.name > :after AND (t.archived_at IS NULL OR :archived)
ORDER BY t.name LIMIT :limit

-- name: list_versions
-- The newest first, before the last one of the page before.
SELECT version, subject, sha256, created_at, created_by, used_at
FROM relais.template_versions
WHERE tenant = :tenant AND name = :name AND version < :before
ORDER BY version DESC LIMIT :limit

-- name: mark_used
UPDATE relais.template_versions AS v SET used_at = clock_timestamp()
WHERE v.tenant = :tenant AND v.name = :name AND v.version = :version AND v.used_at IS NULL

-- name: noted
-- What the mail of a job is made from, where an attempt has noted it.
SELECT template FROM relais.job_bodies WHERE job_id = :id

-- name: note
-- What the mails of these jobs are made from; what was noted before stays, and comes back.
UPDATE relais.job_bodies AS b SET template = coalesce(b.template, d.template)
FROM json_to_recordset(:rows) AS d (job_id uuid, template jsonb)
WHERE b.job_id = d.job_id
RETURNING b.job_id, b.template
