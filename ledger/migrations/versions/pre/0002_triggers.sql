-- History, the registry of lanes and the counts: written by triggers, so that code cannot forget
-- them, once per statement, so that a batch of 500 jobs costs what one costs.
CREATE OR REPLACE FUNCTION relais.record_accepted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO relais.job_events
        (job_id, tenant, from_state, to_state, attempt, worker, colour, version, reason, error)
    SELECT id, tenant, NULL, state, attempt, worker, colour, version, reason, error FROM changed;
    -- In one order, so that two who open the same lanes wait for each other once.
    INSERT INTO relais.lanes (queue, lane, kind, priority)
    SELECT DISTINCT queue, lane, kind, priority FROM changed WHERE state IN ('ready', 'scheduled')
    ORDER BY queue, lane, kind, priority
    ON CONFLICT DO NOTHING;
    INSERT INTO relais.job_count_deltas (tenant, queue, state, jobs)
    SELECT tenant, queue, state, count(*) FROM changed GROUP BY tenant, queue, state;
    RETURN NULL;
END $$;

-- Its plan is cached when it first runs, perhaps for one row: a nested loop would then be
-- quadratic for a batch.
CREATE OR REPLACE FUNCTION relais.record_changed() RETURNS trigger LANGUAGE plpgsql
SET enable_nestloop = off AS $$
DECLARE
    collapsed uuid[] := '{}';
BEGIN
    IF EXISTS (SELECT FROM changed WHERE state = 'scheduled' AND snoozes > 1) THEN
        collapsed := relais.collapse_snoozes(ARRAY(
            SELECT n.id FROM changed AS n JOIN before AS o ON o.id = n.id
            WHERE o.state = 'running' AND n.state = 'scheduled' AND n.snoozes > 1
        ));
    END IF;
    INSERT INTO relais.job_events
        (job_id, tenant, from_state, to_state, attempt, worker, colour, version, reason, error,
         duration_ms)
    SELECT n.id, n.tenant, o.state, n.state, n.attempt, n.worker, n.colour, n.version, n.reason,
           n.error,
           CASE WHEN o.state = 'running'
                THEN 1000 * extract(epoch FROM clock_timestamp() - o.started_at) END
    FROM changed AS n JOIN before AS o ON o.id = n.id
    WHERE n.state <> o.state AND NOT n.id = ANY(collapsed);
    INSERT INTO relais.lanes (queue, lane, kind, priority)
    SELECT DISTINCT queue, lane, kind, priority FROM changed WHERE state IN ('ready', 'scheduled')
    ORDER BY queue, lane, kind, priority
    ON CONFLICT DO NOTHING;
    INSERT INTO relais.job_count_deltas (tenant, queue, state, jobs)
    SELECT tenant, queue, state, sum(jobs) FROM (
        SELECT tenant, queue, state, 1 AS jobs FROM changed
        UNION ALL SELECT tenant, queue, state, -1 FROM before
    ) AS moved GROUP BY tenant, queue, state HAVING sum(jobs) <> 0;
    RETURN NULL;
END $$;

-- Snoozes in a row are one event that says how often: the way back into the queue is forgotten.
-- Returns the jobs whose new snooze was added to the one before.
CREATE OR REPLACE FUNCTION relais.collapse_snoozes(snoozed uuid[]) RETURNS uuid[]
LANGUAGE plpgsql SET enable_nestloop = on AS $$
DECLARE
    job record;
    first_seq bigint;
    collapsed uuid[] := '{}';
BEGIN
    FOR job IN
        SELECT id, attempt, worker, colour, version, reason, snoozed_since
        FROM relais.jobs WHERE id = ANY(snoozed)
    LOOP
        SELECT e.seq INTO first_seq FROM relais.job_events AS e
        WHERE e.job_id = job.id AND e.at >= job.snoozed_since
          AND e.from_state = 'running' AND e.to_state = 'scheduled'
        ORDER BY e.seq DESC LIMIT 1;
        CONTINUE WHEN first_seq IS NULL;
        DELETE FROM relais.job_events AS e
        WHERE e.job_id = job.id AND e.at >= job.snoozed_since AND e.seq > first_seq;
        UPDATE relais.job_events AS e
        SET repeats = e.repeats + 1, last_at = clock_timestamp(), attempt = job.attempt,
            worker = job.worker, colour = job.colour, version = job.version, reason = job.reason
        WHERE e.job_id = job.id AND e.at >= job.snoozed_since AND e.seq = first_seq;
        collapsed := collapsed || job.id;
    END LOOP;
    RETURN collapsed;
END $$;

CREATE OR REPLACE FUNCTION relais.record_removed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO relais.job_count_deltas (tenant, queue, state, jobs)
    SELECT tenant, queue, state, -count(*) FROM before GROUP BY tenant, queue, state;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION relais.record_truncated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    TRUNCATE relais.job_bodies, relais.job_counts, relais.job_count_deltas;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER jobs_removed AFTER DELETE ON relais.jobs
    REFERENCING OLD TABLE AS before
    FOR EACH STATEMENT EXECUTE FUNCTION relais.record_removed();

CREATE OR REPLACE TRIGGER jobs_truncated AFTER TRUNCATE ON relais.jobs
    FOR EACH STATEMENT EXECUTE FUNCTION relais.record_truncated();

-- From here to the phase `post`: what the release before this one writes and reads.
CREATE OR REPLACE FUNCTION relais.old_release_wrote_body() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO relais.job_bodies (job_id, payload) VALUES (NEW.id, NEW.payload)
    ON CONFLICT (job_id) DO NOTHING;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION relais.old_release_moved_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state = 'running' AND NEW.payload IS NULL THEN
        SELECT payload INTO NEW.payload FROM relais.job_bodies WHERE job_id = NEW.id;
    END IF;
    IF NEW.result IS DISTINCT FROM OLD.result AND NEW.result IS NOT NULL THEN
        UPDATE relais.job_bodies SET result = NEW.result WHERE job_id = NEW.id;
    END IF;
    NEW.ready_at := CASE WHEN NEW.state = 'ready' THEN clock_timestamp() END;
    RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION relais.old_release_made_ready() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.ready_at := clock_timestamp();
    RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION relais.old_release_linked() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.is_open := EXISTS (SELECT FROM relais.jobs AS parent WHERE parent.id = NEW.parent_id
                           AND (parent.finished_at IS NULL OR parent.state = 'unknown'));
    IF NEW.is_open THEN
        UPDATE relais.jobs SET waits_for = waits_for + 1 WHERE id = NEW.child_id;
    END IF;
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER old_release_ready BEFORE INSERT ON relais.jobs FOR EACH ROW
    WHEN (NEW.state = 'ready' AND NEW.ready_at IS NULL)
    EXECUTE FUNCTION relais.old_release_made_ready();
CREATE OR REPLACE TRIGGER old_release_body AFTER INSERT ON relais.jobs FOR EACH ROW
    WHEN (NEW.payload IS NOT NULL)
    EXECUTE FUNCTION relais.old_release_wrote_body();
-- New code keeps `ready_at` and leaves `result` alone, so this does not run for it.
CREATE OR REPLACE TRIGGER old_release_moved BEFORE UPDATE ON relais.jobs FOR EACH ROW
    WHEN ((NEW.state = 'ready') <> (NEW.ready_at IS NOT NULL) OR NEW.result IS DISTINCT FROM OLD.result)
    EXECUTE FUNCTION relais.old_release_moved_job();
CREATE OR REPLACE TRIGGER old_release_link BEFORE INSERT ON relais.job_parents FOR EACH ROW
    WHEN (NEW.is_open IS NULL)
    EXECUTE FUNCTION relais.old_release_linked();
