-- Every statement that changes relais.messages. ledger/messages.py runs them by name.
-- Fence: a mark names (message id, attempt); a row that another attempt took over is not touched.
-- No index includes a column that changes, so that updates stay on the same page (HOT).

-- name: insert
-- One row per recipient; nothing is sent to a suppressed address. Existing rows stay, and
-- nothing is written if the relay is stopped or backing off.
WITH born AS (
    INSERT INTO relais.messages (
        id, tenant, job_id, position, recipient, role, message_id, relay, state, attempt, reason,
        created_at, changed_at
    )
    SELECT
        d.id, d.tenant, d.job_id, d.position, d.recipient, d.role, d.message_id, d.relay,
        CASE WHEN s.address IS NULL THEN 'sending' ELSE 'suppressed' END::relais.message_state,
        d.attempt, s.reason, now(), clock_timestamp()
    FROM json_to_recordset(:rows) AS d (
        id uuid, tenant text, job_id uuid, position int, recipient text, address text, role text,
        message_id text, relay text, attempt int
    )
    LEFT JOIN relais.suppressions AS s ON s.tenant = d.tenant AND s.address = d.address
    WHERE NOT EXISTS (SELECT FROM relais.relay_states AS r
                      WHERE r.tenant = d.tenant AND r.name = d.relay
                        AND (r.stopped_at IS NOT NULL OR r.backoff_until > statement_timestamp()))
    ON CONFLICT (job_id, position) DO NOTHING
    RETURNING *
)
SELECT b.id, b.tenant, b.job_id, b.position, b.recipient, b.role, b.message_id, b.relay,
       b.state, b.attempt, b.created_at, b.reply_code, b.enhanced_code, b.reply, b.reason,
       NULL::float8 AS dot_age_s, coalesce(r.backoff_step, 0) AS backoff_step
FROM born AS b
LEFT JOIN relais.relay_states AS r ON r.tenant = b.tenant AND r.name = b.relay

-- name: take_over
-- Take over the rows of an earlier attempt. An unanswered dot stays `dot_sent`: the new attempt
-- decides by the relay's policy. A settled row is tried again only if a person has reopened its job
-- since; an unknown one only if the job itself was unknown.
UPDATE relais.messages AS m
SET attempt = d.attempt, changed_at = clock_timestamp(),
    state = CASE
        WHEN m.state = 'dot_sent' THEN m.state
        WHEN s.address IS NOT NULL THEN 'suppressed'
        ELSE 'sending'
    END,
    dot_sent_at = CASE WHEN m.state = 'dot_sent' THEN m.dot_sent_at END,
    reason = CASE WHEN m.state = 'dot_sent' THEN m.reason ELSE s.reason END
FROM json_to_recordset(:rows) AS d (
    tenant text, job_id uuid, position int, address text, attempt int
)
LEFT JOIN relais.suppressions AS s ON s.tenant = d.tenant AND s.address = d.address
WHERE m.job_id = d.job_id AND m.position = d.position AND m.attempt < d.attempt
  AND (m.state IN ('pending', 'sending', 'deferred', 'dot_sent')
       OR (m.state IN ('failed', 'suppressed', 'unknown')
           AND EXISTS (SELECT FROM relais.job_events AS e
                       WHERE e.job_id = m.job_id AND e.at > m.changed_at
                         AND (e.from_state = 'unknown'
                              OR (e.from_state IN ('failed', 'cancelled')
                                  AND m.state <> 'unknown')))))

-- name: rows
-- The rows of these jobs, in order, and how long ago an unanswered dot went out.
SELECT id, tenant, job_id, position, recipient, role, message_id, relay, state, attempt,
       created_at, reply_code, enhanced_code, reply, reason,
       extract(epoch FROM statement_timestamp() - dot_sent_at)::float8 AS dot_age_s
FROM relais.messages
WHERE job_id = ANY(CAST(:job_ids AS uuid[]))
ORDER BY job_id, position

-- name: mark_dots
-- sending -> dot_sent, while the attempt still owns the message and the job.
UPDATE relais.messages AS m
SET state = 'dot_sent', tries = m.tries + 1, changed_at = clock_timestamp(),
    dot_sent_at = coalesce(m.dot_sent_at, clock_timestamp())
FROM json_to_recordset(:rows) AS d (id uuid, job_id uuid, attempt int)
JOIN relais.jobs AS j ON j.id = d.job_id AND j.attempt = d.attempt AND j.owner IS NOT NULL
WHERE m.id = d.id AND m.attempt = d.attempt AND m.job_id = d.job_id
  AND m.state IN ('sending', 'dot_sent')
RETURNING m.id

-- name: mark
-- Results of messages that this attempt holds. Repeating a mark changes nothing, so that a
-- commit whose reply was lost can be repeated.
UPDATE relais.messages AS m
SET state = d.state::relais.message_state, reply_code = coalesce(d.reply_code, m.reply_code),
    enhanced_code = CASE WHEN d.reply_code IS NULL THEN m.enhanced_code ELSE d.enhanced_code END,
    reply = coalesce(d.reply, m.reply), reason = d.reason, changed_at = clock_timestamp(),
    -- Kept while a dot is unanswered, and as the record of the last one where it was.
    dot_sent_at = CASE WHEN d.state IN ('dot_sent', 'sent', 'unknown') THEN m.dot_sent_at END,
    sent_at = CASE WHEN d.state = 'sent' THEN coalesce(m.sent_at, clock_timestamp()) END
FROM json_to_recordset(:rows) AS d (
    id uuid, attempt int, state text, reply_code smallint, enhanced_code text, reply text,
    reason text
)
WHERE m.id = d.id AND m.attempt = d.attempt
  AND (m.state IN ('sending', 'dot_sent') OR m.state = d.state::relais.message_state)
RETURNING m.id

-- name: settle_abandoned
-- Open messages of jobs that ended without their handler (the last worker died, a person
-- cancelled): an unanswered dot is unknown, the rest failed. Looks at jobs that ended after `after`
-- and not in the last `since_s`, a bounded number of them. A message that a later attempt has taken
-- over is not touched; one that is settled counts as settled when its job ended, so that a person
-- who reopens the job at this very moment is not ignored.
WITH ended AS MATERIALIZED (
    SELECT id, attempt, finished_at FROM relais.jobs
    WHERE state IN ('failed', 'cancelled', 'unknown')
      AND (finished_at, id) > (CAST(:after AS timestamptz), CAST(:after_id AS uuid))
      AND finished_at < statement_timestamp() - :since_s * interval '1 second'
    ORDER BY finished_at, id LIMIT :limit
), settled AS (
    UPDATE relais.messages AS m
    SET state = CASE WHEN m.state = 'dot_sent' THEN 'unknown' ELSE 'failed' END
                ::relais.message_state,
        reason = CASE WHEN m.state = 'dot_sent'
                      THEN 'the job ended before a reply to the dot was recorded'
                      ELSE 'the job ended before this message was sent' END,
        changed_at = greatest(m.changed_at, ended.finished_at)
    FROM ended
    WHERE m.job_id = ended.id AND m.attempt <= ended.attempt
      AND m.state IN ('pending', 'sending', 'deferred', 'dot_sent')
    RETURNING m.state
)
SELECT (SELECT count(*) FROM ended) AS looked_at,
       (SELECT max(finished_at) FROM ended) AS until,
       (SELECT id FROM ended ORDER BY finished_at DESC, id DESC LIMIT 1) AS until_id,
       count(*) FILTER (WHERE state = 'unknown') AS unknown,
       count(*) FILTER (WHERE state = 'failed') AS failed
FROM settled
