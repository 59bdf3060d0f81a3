-- Undoes phase 005.
drop view v_queue_health;
drop function fn_executor_admission(text);
drop function fn_queue_heartbeat_unregister(text);
drop function fn_queue_heartbeat_tick(text, text, text, uuid, text, jsonb);
drop function fn_queue_heartbeat_register(text, text, text[], int, int, jsonb);
drop function fn_executor_is_ours(name);
drop table queue_heartbeat;
