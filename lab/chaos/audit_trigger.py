"""Everything that happens to a message, kept beside the ledger for the checker alone."""

from __future__ import annotations

SQL = """
CREATE SCHEMA chaos;
CREATE TABLE chaos.marks (
    seq bigint GENERATED ALWAYS AS IDENTITY, message uuid NOT NULL, job uuid NOT NULL,
    recipient text NOT NULL, attempt int NOT NULL, state text NOT NULL,
    tries int NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE FUNCTION chaos.witness() RETURNS trigger LANGUAGE plpgsql
-- With its owner's rights: the processes under test may not write here themselves.
SECURITY DEFINER SET search_path = chaos, pg_temp AS $$
BEGIN
    INSERT INTO chaos.marks (message, job, recipient, attempt, state, tries)
    VALUES (NEW.id, NEW.job_id, NEW.recipient, NEW.attempt, NEW.state,
            NEW.tries);
    RETURN NULL;
END $$;
CREATE TRIGGER witness AFTER INSERT OR UPDATE ON relais.messages
    FOR EACH ROW EXECUTE FUNCTION chaos.witness();
"""
