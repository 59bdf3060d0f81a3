//! What a template may say, and what becomes of lists without items, items within graphs, and data that does not fit.

use serde_json::{Value, json};

use super::stage::{Stage, edge, node};
use tokio_postgres::Client;

use crate::support::{SOON, wait_until};

/// The steps of a dry run, each with what it needs.
async fn needs(stage: &Stage, template: &str, params: Value) -> Value {
    let steps = "select (select jsonb_object_agg(s ->> 'step', s -> 'needs') from jsonb_array_elements(
        fn_mot_graph_emit($1, $2, p_actor => 'test', p_dry_run => true) -> 'steps') s)";
    stage.value(steps, &[&template, &params]).await
}

/// A node for each item of `params.items`.
fn each(key: &str) -> Value {
    json!({"key": key, "job_kind": "a.a", "for_each": "params.items"})
}

#[tokio::test]
async fn what_follows_an_empty_list_at_the_head_of_a_graph_within_waits_for_what_the_graph_waits_for() {
    let stage = Stage::open().await;
    stage.put("inner", json!([each("a"), node("b")]), json!([edge("a", "b")])).await;
    let graph =
        json!({"key": "g", "type": "graph", "template": "inner", "params": {"items": "{params.items}"}});
    stage.put("outer", json!([node("x"), graph, node("z")]), json!([edge("x", "g"), edge("g", "z")])).await;
    let empty = needs(&stage, "outer", json!({"items": []})).await;
    assert_eq!(empty, json!({"x": [], "g/b": ["x"], "z": ["g/b"]}));
    let one = needs(&stage, "outer", json!({"items": [1]})).await;
    assert_eq!(one, json!({"x": [], "g/a[1]": ["x"], "g/b": ["g/a[1]"], "z": ["g/b"]}));
    stage.emit("outer", json!({"items": []})).await;
    assert_eq!(stage.run(&[]).await, ["x", "g/b", "z"]);
}

#[tokio::test]
async fn a_graph_within_that_has_nothing_to_do_lets_its_needs_through_once() {
    let stage = Stage::open().await;
    stage.put("inner", json!([each("a")]), json!([])).await;
    let graph =
        json!({"key": "g", "type": "graph", "template": "inner", "params": {"items": "{params.items}"}});
    let edges = json!([edge("x", "g"), edge("g", "z"), edge("x", "z")]);
    stage.put("outer", json!([node("x"), graph, node("z")]), edges).await;
    assert_eq!(needs(&stage, "outer", json!({"items": []})).await, json!({"x": [], "z": ["x"]}));
    let id = stage.emit("outer", json!({"items": []})).await;
    assert_eq!(stage.run(&[]).await, ["x", "z"]);
    assert_eq!(stage.status(id).await, "succeeded");
}

#[tokio::test]
async fn graphs_within_are_joined_item_by_item() {
    let stage = Stage::open().await;
    stage.put("two", json!([node("p"), node("q")]), json!([edge("p", "q")])).await;
    let graph = json!({"key": "g", "type": "graph", "template": "two", "for_each": "params.items"});
    let by_item = |from, to| json!({"from": from, "to": to, "each": true});
    let edges = json!([by_item("w", "g"), by_item("g", "z")]);
    stage.put("outer", json!([each("w"), graph, each("z")]), edges).await;
    let wanted = json!({
        "w[1]": [], "g[1]/p": ["w[1]"], "g[1]/q": ["g[1]/p"], "z[1]": ["g[1]/q"],
        "w[2]": [], "g[2]/p": ["w[2]"], "g[2]/q": ["g[2]/p"], "z[2]": ["g[2]/q"]});
    assert_eq!(needs(&stage, "outer", json!({"items": [7, 8]})).await, wanted);
}

#[tokio::test]
async fn a_workflow_of_empty_lists_has_succeeded_at_once() {
    let stage = Stage::open().await;
    stage.put("t", json!([each("a")]), json!([])).await;
    let id = stage.emit("t", json!({"items": []})).await;
    let health = stage.health(id).await;
    assert_eq!(
        (&health["status"], &health["jobs"], &health["succeeded"]),
        (&"succeeded".into(), &0.into(), &0.into())
    );
}

#[tokio::test]
async fn what_a_placeholder_brings_is_not_filled_again() {
    let stage = Stage::open().await;
    let payload =
        json!({"a": "{params.x} and {params.y}", "b": ["{params.n}"], "c": "{params.x}", "d": "{Not one}"});
    let nodes = json!([{"key": "a", "job_kind": "a.a", "safe_payload": payload}]);
    stage.put("t", nodes, json!([])).await;
    stage.emit("t", json!({"x": "{params.y}", "y": "Y", "n": 3})).await;
    let filled = stage.value("select safe_payload from job_queue", &[]).await;
    assert_eq!(filled, json!({"a": "{params.y} and Y", "b": [3], "c": "{params.y}", "d": "{Not one}"}));
}

#[tokio::test]
async fn parameters_that_make_too_much_of_a_template_are_refused_and_leave_nothing() {
    let stage = Stage::open().await;
    let payload = json!({"x": "{params.note}", "y": "{params.note}"});
    stage.put("long", json!([{"key": "a", "job_kind": "a.a", "safe_payload": payload}]), json!([])).await;
    let emit = "select fn_mot_graph_emit('long', $1, p_actor => 'test')";
    let answer = stage.value(emit, &[&json!({"note": "x".repeat(9000)})]).await;
    assert_eq!((&answer["refused"], &answer["reason"]), (&true.into(), &"invalid_params".into()), "{answer}");
    assert_eq!(stage.value("select count(*) from job_workflow", &[]).await, 0);
    assert_eq!(stage.value("select count(*) from job_queue", &[]).await, 0);
}

#[tokio::test]
async fn whoever_emits_again_with_other_parameters_is_told_so() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a")]), json!([])).await;
    let emit = "select fn_mot_graph_emit('t', $1, 'c', 'test')";
    assert_eq!(stage.value(emit, &[&json!({"n": 1})]).await["created"], true);
    for (params, same) in [(json!({"n": 1}), true), (json!({"n": 2}), false)] {
        let answer = stage.value(emit, &[&params]).await;
        assert_eq!((&answer["created"], &answer["same_params"]), (&false.into(), &same.into()));
    }
}

#[tokio::test]
async fn a_step_is_retried_and_timed_as_its_node_says() {
    let stage = Stage::open().await;
    let own = json!({"key": "a", "job_kind": "a.a", "backoff_strategy": "constant", "backoff_seconds": 3, "time_limit_seconds": 7});
    stage.put("t", json!([own, node("b")]), json!([])).await;
    stage.emit("t", json!({})).await;
    let mut policies = Vec::new();
    let claim = "select policy, job_id, lease_token from fn_job_claim('one', 2) order by job_id";
    for row in stage.client.query(claim, &[]).await.unwrap() {
        policies.push(row.get::<_, Option<Value>>(0));
        let (id, token): (uuid::Uuid, i64) = (row.get(1), row.get(2));
        stage.value("select fn_job_fail_transient($1, $2, 'later')", &[&id, &token]).await;
    }
    let wanted = json!({"backoff_strategy": "constant", "backoff_seconds": 3, "time_limit_seconds": 7});
    assert_eq!(policies, [Some(wanted), None]);
    let delay = "select extract(epoch from scheduled_at - finished_at)::numeric from (
        select j.scheduled_at, a.ended_at as finished_at from job_queue j join job_attempt a using (job_id)
        where j.policy is not null) s";
    let delay = stage.value(delay, &[]).await.as_f64().unwrap();
    assert!((delay - 3.0).abs() < 0.1, "{delay}");
}

#[tokio::test]
async fn everything_wrong_with_a_template_is_said_at_once() {
    let stage = Stage::open().await;
    let params = json!({"properties": {"password": {}, "n": {"minimum": "abc", "enum": 3}}, "required": ["token"],
        "additionalProperties": {"type": "string"}, "maxItems": -1});
    let nodes = json!([
        {"key": "a", "job_kind": "a.a", "event_domain": "nonsense", "backoff_seconds": "x", "backoff_strategy": "fast", "time_limit_seconds": 0, "delay_seconds": -1, "source_ref": {}},
        {"key": "b", "job_kind": "workflow:t"}, node("c"), node("c")]);
    let edges = json!([{"from": "a", "to": "c", "each": "true"}, {"from": "a", "to": "d"}]);
    let answer = stage.put_with("t", params, nodes, edges).await;
    let errors = answer["errors"].to_string();
    for wrong in [
        "params: a parameter named password is denied",
        "params: a parameter named token is denied",
        "params.n: enum must be an array",
        "params.n: minimum must be a number",
        "params: additionalProperties must be true or false",
        "params: maxItems must be a whole number",
        "node a: the domain \\\"nonsense\\\" is not known",
        "node a: backoff_seconds is a number",
        "node a: delay_seconds is a number",
        "node a: source_ref is a text",
        "node a: backoff_strategy is constant, linear or exponential",
        "node a: time_limit_seconds is a number of at least 1",
        "node b: a job of kind workflow:t starts a workflow",
        "node c stands twice",
        "edge a → c: each is true or false",
        "edge a → d: there is no node d",
    ] {
        assert!(errors.contains(wrong), "{wrong}: {errors}");
    }
}

#[tokio::test]
async fn a_value_is_one_of_an_enum_as_a_whole() {
    let stage = Stage::open().await;
    for (schema, value, wrong) in [
        (json!({"enum": [[1, 2]]}), json!([1]), 1),
        (json!({"enum": [{"a": 1, "b": 2}]}), json!({}), 1),
        (json!({"enum": ["a"]}), json!("a"), 0),
    ] {
        let errors = "select cardinality(fn_json_schema_errors($1, $2))";
        assert_eq!(stage.value(errors, &[&schema, &value]).await, wrong, "{schema} {value}");
    }
}

#[tokio::test]
async fn a_graph_of_sixty_graphs_of_sixty_has_all_its_steps_in_their_places() {
    let stage = Stage::open().await;
    stage.put("one", json!([node("a"), node("b")]), json!([edge("a", "b")])).await;
    for (outer, inner) in [("sixty", "one"), ("many", "sixty")] {
        let nodes: Vec<Value> =
            (1..=60).map(|n| json!({"key": format!("n{n}"), "type": "graph", "template": inner})).collect();
        stage.put(outer, json!(nodes), json!([])).await;
    }
    let id = stage.emit("many", json!({})).await;
    let steps = "select jsonb_build_array(count(*), count(*) filter (where blocked_by = 0)) from job_queue";
    assert_eq!(stage.value(steps, &[]).await, json!([7200, 3600]));
    let apart = "select count(*) from job_dependency d join job_queue j using (job_id) join job_queue n on n.job_id = d.needs_job_id
        where left(j.idempotency_key, -1) <> left(n.idempotency_key, -1)";
    assert_eq!(stage.value(apart, &[]).await, 0, "each b needs the a of its own graph");
    assert_eq!(stage.health(id).await["jobs"], 7200);
}

#[tokio::test]
async fn a_graph_within_one_that_was_used_is_used_too() {
    let stage = Stage::open().await;
    stage.put("inner", json!([node("a")]), json!([])).await;
    stage.put("outer", json!([{"key": "g", "type": "graph", "template": "inner"}]), json!([])).await;
    stage.emit("outer", json!({})).await;
    assert_eq!(
        stage.put("inner", json!([node("b")]), json!([])).await["version"],
        2,
        "what was made from it can be read"
    );
}

/// Commits what `other` has begun, once somebody waits for it.
async fn commit_when_waited_for(stage: &Stage, other: &Client) {
    let waits = "select exists (select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database())";
    let watcher = stage.db.client().await;
    wait_until("somebody waits", SOON, async || watcher.query_one(waits, &[]).await.unwrap().get(0)).await;
    other.batch_execute("commit").await.unwrap();
}

#[tokio::test]
async fn a_template_that_is_being_used_for_the_first_time_is_not_changed() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a")]), json!([])).await;
    let other = stage.db.client().await;
    other.batch_execute("begin; select fn_mot_graph_emit('t', '{}', 'first', 'test')").await.unwrap();
    let put = stage.put("t", json!([node("b")]), json!([]));
    let (answer, ()) = tokio::join!(put, commit_when_waited_for(&stage, &other));
    assert_eq!((&answer["refused"], &answer["version"]), (&false.into(), &2.into()), "{answer}");
}

#[tokio::test]
async fn a_template_that_is_being_changed_is_used_as_it_will_be() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a")]), json!([])).await;
    let other = stage.db.client().await;
    other.batch_execute("begin").await.unwrap();
    let template = json!({"template_key": "t", "nodes": [node("b")]});
    other.execute("select fn_mot_template_put($1, 'test')", &[&template]).await.unwrap();
    let (id, ()) = tokio::join!(stage.emit("t", json!({})), commit_when_waited_for(&stage, &other));
    assert_eq!(stage.standing(id).await, json!({"b": "queued"}));
}
