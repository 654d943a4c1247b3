-- Run like roles.sql, in the database `relais`: what was made there as superuser becomes the
-- application's. Sequences of a column follow their table, types of a row their relation.

DO $$
DECLARE
    found record;
BEGIN
    IF to_regnamespace('relais') IS NULL THEN
        CREATE SCHEMA relais;
    END IF;
    FOR found IN
        WITH own AS (
            SELECT oid, nspname, nspowner FROM pg_namespace
            WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
        )
        SELECT format('SCHEMA %I', nspname) AS what FROM own
        WHERE nspowner = 10 AND nspname <> 'public'
        UNION ALL
        SELECT format(
            CASE relkind WHEN 'v' THEN 'VIEW %s' WHEN 'm' THEN 'MATERIALIZED VIEW %s'
                WHEN 'S' THEN 'SEQUENCE %s' ELSE 'TABLE %s' END,
            c.oid::regclass)
        FROM pg_class AS c JOIN own ON own.oid = relnamespace
        WHERE relowner = 10 AND relkind IN ('r', 'p', 'v', 'm', 'S')
            AND NOT (relkind = 'S' AND EXISTS (
                SELECT FROM pg_depend
                WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype IN ('a', 'i')
                    AND refclassid = 'pg_class'::regclass))
        UNION ALL
        SELECT format('ROUTINE %s', p.oid::regprocedure)
        FROM pg_proc AS p JOIN own ON own.oid = pronamespace WHERE proowner = 10
        UNION ALL
        SELECT format('TYPE %s', t.oid::regtype)
        FROM pg_type AS t JOIN own ON own.oid = typnamespace
        WHERE typowner = 10 AND typtype IN ('e', 'd')
    LOOP
        EXECUTE format('ALTER %s OWNER TO relais', found.what);
    END LOOP;
END $$;

