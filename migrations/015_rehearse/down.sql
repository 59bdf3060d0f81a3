-- Undoes phase 015. Refuses while there is a history: the generations of replays are counted from it.
do $$
begin
  lock table consumer_backfill; -- whoever is about to commit is waited for, and then seen
  if exists (select from consumer_backfill) then
    raise exception 'consumer_backfill holds backfills and replays that would be forgotten'
      using errcode = '55000', hint = 'Let them end or cancel them, export and empty consumer_backfill, then run the down step again.';
  end if;
end
$$;

drop view v_consumer_backfill;
drop function fn_consumer_backfill_check(timestamptz);
drop function fn_consumer_backfill_move(uuid, text, text, text, boolean, timestamptz);
drop function fn_consumer_replay(text, timestamptz, timestamptz, int, boolean, text, text, uuid[], numeric, int, jsonb, int, timestamptz);
drop function fn_consumer_backfill(text, timestamptz, timestamptz, int, boolean, text, text, numeric, int, jsonb, int, timestamptz);
drop function fn_consumer_backfill_step(uuid, int, timestamptz);
drop function fn_rehearse_begin(text, text, timestamptz, timestamptz, int, boolean, text, text, uuid[], numeric, int, jsonb, int, timestamptz);
drop function fn_rehearse_obstacle(consumer_registry, jsonb);
drop function fn_rehearse_estimate(timestamptz, timestamptz);
drop function fn_rehearse_run(consumer_registry, int, uuid[], bigint, bigint, uuid, boolean, bigint[]);
drop function fn_rehearse_batch(consumer_registry, int, uuid[], bigint, bigint, uuid, boolean, bigint[]);
drop function fn_rehearse_page(text, timestamptz, uuid, timestamptz, uuid[], int);
drop function fn_rehearse_candidate(consumer_registry, int);
drop function fn_consumer_diff(jsonb, int, int);
drop function fn_rehearse_rows(consumer_registry, uuid[]);
drop function fn_rehearse_forgotten(consumer_registry);
drop table consumer_backfill;
