-- The history by day: a new parent takes the old table in as its first partition, in one short
-- transaction. `:until` is the first midnight (UTC) that the old table does not hold.
ALTER TABLE relais.job_events RENAME TO job_events_before;
ALTER INDEX relais.ix_job_events_job RENAME TO ix_job_events_before_job;
ALTER INDEX relais.ix_job_events_at RENAME TO ix_job_events_before_at;
ALTER TABLE relais.job_events_before RENAME CONSTRAINT pk_job_events TO pk_job_events_before;
CREATE SEQUENCE relais.job_events_number AS bigint;
SELECT setval('relais.job_events_number', (
    SELECT coalesce(max(seq), 0) + 1 FROM relais.job_events_before
), false);
ALTER TABLE relais.job_events_before ALTER COLUMN seq DROP IDENTITY;
ALTER TABLE relais.job_events_before ALTER COLUMN seq SET DEFAULT nextval('relais.job_events_number');
CREATE TABLE relais.job_events (
    LIKE relais.job_events_before INCLUDING DEFAULTS
) PARTITION BY RANGE (at);
ALTER SEQUENCE relais.job_events_number OWNED BY relais.job_events.seq;
CREATE INDEX ix_job_events_job ON relais.job_events (job_id, seq);
