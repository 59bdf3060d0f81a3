//! Who may do what: the functions are the only way, and each role has its own.

use std::collections::BTreeMap;

use super::stage::Stage;
use crate::support::TestDb;

const ROLES: [&str; 4] = ["reveille_dispatcher", "reveille_executor", "reveille_operator", "reveille_reader"];

/// What each role may call of the functions that move jobs, besides those that only read.
const MOVERS: [(&str, &[&str]); 21] = [
    ("fn_job_enqueue", &["reveille_executor", "reveille_operator"]),
    ("fn_job_enqueue_many", &["reveille_executor", "reveille_operator"]),
    ("fn_job_claim", &["reveille_executor"]),
    ("fn_job_start", &["reveille_executor"]),
    ("fn_job_renew", &["reveille_executor"]),
    ("fn_job_succeed", &["reveille_executor"]),
    ("fn_job_succeed_many", &["reveille_executor"]),
    ("fn_job_fail_transient", &["reveille_executor"]),
    ("fn_job_fail_permanent", &["reveille_executor"]),
    ("fn_job_release", &["reveille_executor"]),
    ("fn_job_release_unknown", &["reveille_executor"]),
    ("fn_job_snooze", &["reveille_executor"]),
    ("fn_job_cancel_done", &["reveille_executor"]),
    ("fn_job_run", &["reveille_executor"]),
    ("fn_job_cancel", &["reveille_operator"]),
    ("fn_job_take_back", &["reveille_operator"]),
    ("fn_job_lease_reaper", &["reveille_dispatcher", "reveille_operator"]),
    ("fn_job_dead_letter_triage", &["reveille_operator"]),
    ("fn_job_dead_letter_replay", &["reveille_operator"]),
    ("fn_job_dead_letter_redrive", &["reveille_operator"]),
    ("fn_dead_letter_authority_set", &["reveille_operator"]),
];

#[tokio::test]
async fn each_role_may_call_its_own_functions_and_no_other() {
    let db = TestDb::new().await;
    let may = "select p.proname::text, coalesce(array_agg(r.role order by r.role) filter (
            where has_function_privilege(r.role, p.oid, 'execute')), '{}')
        from pg_proc p cross join unnest($1::text[]) r (role)
        where p.pronamespace = current_schema()::regnamespace and p.proname = any ($2) group by p.oid, p.proname";
    let names: Vec<&str> = MOVERS.iter().map(|(name, _)| *name).collect();
    let rows = db.client().await.query(may, &[&&ROLES[..], &names]).await.unwrap();
    let found: BTreeMap<String, Vec<String>> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    for (name, roles) in MOVERS {
        assert_eq!(found[name], roles, "{name}");
    }
}

#[tokio::test]
async fn no_role_moves_a_job_but_by_the_functions() {
    let stage = Stage::open().await;
    let job = stage.enqueue("any").await;
    for role in ROLES {
        stage.client.batch_execute(&format!("set role {role}")).await.unwrap();
        for statement in [
            "update job_queue set status = 'cancelled', finished_at = now()",
            "update job_queue set priority = 0",
            "delete from job_queue",
            "insert into job_queue (job_kind, actor, idempotency_key) values ('a', 'b', 'c')",
            "truncate job_queue",
            "insert into job_attempt (job_id, lease_token, lease_owner, picked_at, outcome) values (gen_random_uuid(), 1, 'x', now(), 'succeeded')",
            "update job_dead_letter set triage_status = 'closed'",
            "insert into queue_pause (scope, actor, reason) values ('all', 'a', 'b')",
            "delete from job_subscription",
            "insert into job_rate values ('a', now(), 1)",
        ] {
            let error = stage.client.batch_execute(statement).await.unwrap_err();
            let code = error.as_db_error().unwrap().code().code();
            assert_eq!(code, "42501", "{role}: {statement}");
        }
        stage.client.batch_execute("reset role").await.unwrap();
    }
    assert_eq!(stage.job(job).await["status"], "queued");
}

#[tokio::test]
async fn what_has_happened_is_changed_by_nobody() {
    let stage = Stage::open().await;
    let job = stage.enqueue("any").await;
    stage.fail(job, "once").await;
    let error = stage.client.batch_execute("update job_attempt set outcome = 'succeeded'").await.unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("append-only"), "not by the owner either");
    let rest = "update job_queue set status = 'succeeded', finished_at = now()";
    let error = stage.client.batch_execute(rest).await.unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("illegal_transition"), "{error:?}");
}
