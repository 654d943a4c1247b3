-- API keys. ledger/api_keys.py runs these by name.

-- name: insert_tenant
INSERT INTO relais.tenants (name) VALUES (:tenant) ON CONFLICT DO NOTHING

-- name: insert_key
INSERT INTO relais.api_keys (id, tenant, name, prefix, sha256, role, rate_per_s, expires_at)
VALUES (:id, :tenant, :name, :prefix, :sha256, :role, :rate_per_s,
        clock_timestamp() + CAST(:expires_in_s AS float8) * interval '1 second')

-- name: find_keys
SELECT id, tenant, name, prefix, sha256, role, rate_per_s, created_at, expires_at, revoked_at,
       last_used_at, coalesce(expires_at <= clock_timestamp(), false) AS is_expired
FROM relais.api_keys WHERE sha256 = ANY(:fingerprints)

-- name: list_keys
SELECT id, tenant, name, prefix, sha256, role, rate_per_s, created_at, expires_at, revoked_at,
       last_used_at, coalesce(expires_at <= clock_timestamp(), false) AS is_expired
FROM relais.api_keys WHERE tenant = :tenant ORDER BY id DESC

-- name: revoke_key
UPDATE relais.api_keys SET revoked_at = coalesce(revoked_at, clock_timestamp())
WHERE tenant = :tenant AND prefix = :prefix RETURNING id

-- name: touch_keys
-- At most once a minute and key, so that a busy key does not rewrite its row all day. A row that
-- another transaction holds is skipped: no caller waits for it.
UPDATE relais.api_keys SET last_used_at = clock_timestamp() WHERE id IN (
    SELECT id FROM relais.api_keys
    WHERE id = ANY(:ids)
      AND (last_used_at IS NULL OR last_used_at < clock_timestamp() - interval '1 minute')
    FOR UPDATE SKIP LOCKED
)
