-- Addresses that must not get mail. ledger/suppressions.py runs these by name.

-- name: suppress
-- Add addresses; the first reason stays.
INSERT INTO relais.suppressions (tenant, address, reason)
SELECT DISTINCT ON (d.tenant, d.address) d.tenant, d.address, d.reason
FROM json_to_recordset(:rows) AS d (tenant text, address text, reason text)
ORDER BY d.tenant, d.address
ON CONFLICT (tenant, address) DO NOTHING
RETURNING tenant, address

-- name: lift
-- Allow mail to this address again.
DELETE FROM relais.suppressions WHERE tenant = :tenant AND address = :address RETURNING address

-- name: find
-- One address.
SELECT address, reason, created_at FROM relais.suppressions
WHERE tenant = :tenant AND address = :address

-- name: list
-- Addresses in alphabetical order, after the last one of the page before.
SELECT address, reason, created_at FROM relais.suppressions
WHERE tenant = :tenant AND address > :after ORDER BY address LIMIT :limit
