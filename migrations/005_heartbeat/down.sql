-- Undoes phase 005.
drop view v_queue_health;
drop function fn_executor_admission(text, text);
drop function fn_executors_live(text);
drop function fn_queue_heartbeat_unregister(text, text);
drop function fn_queue_stale_check(int, timestamptz);
drop function fn_queue_heartbeat_leave(text, text);
drop function fn_executor_wakes_for(text, text, text[]);
drop function fn_queue_heartbeat_tick(text, text, text, uuid, text, jsonb, text);
drop function fn_queue_heartbeat_register(text, text, text[], int, int, jsonb, text, boolean);
drop function fn_executor_is_passive(text);
drop function fn_legacy_workers();
drop function fn_executor_is_ours(name);
drop table queue_heartbeat;
