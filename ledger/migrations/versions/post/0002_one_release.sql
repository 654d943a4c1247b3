-- What the release before this one needed.
DROP TRIGGER IF EXISTS old_release_ready ON relais.jobs;
DROP TRIGGER IF EXISTS old_release_body ON relais.jobs;
DROP TRIGGER IF EXISTS old_release_moved ON relais.jobs;
DROP TRIGGER IF EXISTS old_release_link ON relais.job_parents;
DROP FUNCTION IF EXISTS relais.old_release_wrote_body(), relais.old_release_moved_job(),
    relais.old_release_made_ready(), relais.old_release_linked();
ALTER TABLE relais.job_parents ALTER COLUMN is_open SET DEFAULT true;
ALTER TABLE relais.job_parents ALTER COLUMN is_open SET NOT NULL;
ALTER TABLE relais.jobs
    DROP COLUMN IF EXISTS payload, DROP COLUMN IF EXISTS result,
    DROP COLUMN IF EXISTS has_children
