-- Undoes phase 004.
drop function fn_job_fail_permanent(uuid, bigint, text, boolean);
drop function fn_job_fail_transient(uuid, bigint, text);
drop function fn_job_fail(uuid, bigint, text, text);
drop function fn_job_backoff(text, int);
