-- Undoes phase 013. Nothing is lost: it holds no rows.
drop view v_reason_counts;
drop function fn_reason_counts(timestamptz);
drop function fn_event_reason_counts(int);
drop function fn_job_explain(uuid, timestamptz);
drop function fn_job_explain_waiting(job_queue, timestamptz);
drop function fn_job_explain_lane(job_queue, timestamptz);
drop function fn_job_explain_order(job_queue);
drop function fn_job_explain_blocked(job_queue);
drop function fn_job_explain_lease(job_queue, timestamptz);
drop function fn_job_explain_end(job_queue);
drop function fn_job_attempts(job_queue, jsonb);
drop function fn_job_lane_ahead(job_queue, int, timestamptz);
drop function fn_event_explain(uuid);
drop function fn_event_explain_consumer(event_outbox, consumer_registry, jsonb, text);
drop function fn_event_explain_dispatch(event_outbox);
drop function fn_event_place(uuid, text, int);
drop function fn_filter_found(jsonpath, event_outbox);
drop function fn_shell_word(text);
