-- Run by the embedded server alone (`postgres --single -j`), as its superuser, in the database
-- `postgres`. A statement ends with a semicolon and an empty line.

-- For clusters whose only role was the superuser `relais`, which no statement can rename while it
-- is the one that runs it.
UPDATE pg_authid SET rolname = 'postgres' WHERE oid = 10;

DO $$ BEGIN
    IF to_regrole('relais') IS NULL THEN
        CREATE ROLE relais;
    END IF;
END $$;

ALTER ROLE relais LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;

ALTER ROLE relais PASSWORD :password;

ALTER ROLE postgres PASSWORD :superuser;

