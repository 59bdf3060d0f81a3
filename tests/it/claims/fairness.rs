//! Priorities, their aging, and equal shares.

use std::collections::BTreeMap;

use serde_json::json;

use super::stage::Stage;

/// So many jobs of a kind, due for so many seconds.
async fn fill(stage: &Stage, kind: &str, count: i32, priority: i32, seconds: i32) {
    let fill = "insert into job_queue (job_kind, actor, idempotency_key, source_ref, priority, scheduled_at)
        select $1::text, 'test', n::text, $1::text, $3::int, clock_timestamp() - make_interval(secs => $4::int)
        from generate_series(1, $2::int) n";
    stage.client.execute(fill, &[&kind, &count, &priority, &seconds]).await.unwrap();
}

async fn counts(stage: &Stage, limit: i32) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for name in stage.names(limit).await {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

fn of(counts: &[(&str, usize)]) -> BTreeMap<String, usize> {
    counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[tokio::test]
async fn the_most_urgent_come_first() {
    let stage = Stage::open().await;
    fill(&stage, "late", 5, 200, 0).await;
    fill(&stage, "urgent", 5, 0, 0).await;
    fill(&stage, "normal", 5, 100, 0).await;
    assert_eq!(counts(&stage, 7).await, of(&[("urgent", 5), ("normal", 2)]));
}

#[tokio::test]
async fn equally_urgent_lanes_share_a_claim_and_what_one_leaves_goes_to_the_others() {
    let stage = Stage::open().await;
    fill(&stage, "flood", 1000, 100, 500).await;
    fill(&stage, "brook", 100, 100, 0).await;
    fill(&stage, "drop", 2, 100, 0).await;
    assert_eq!(counts(&stage, 30).await, of(&[("flood", 14), ("brook", 14), ("drop", 2)]));
    assert_eq!(counts(&stage, 200).await, of(&[("flood", 114), ("brook", 86)]));
}

#[tokio::test]
async fn with_one_job_a_claim_each_lane_gets_its_part_too() {
    let stage = Stage::open().await;
    fill(&stage, "flood", 300, 100, 500).await;
    fill(&stage, "brook", 300, 100, 0).await;
    let mut brook = 0;
    for _ in 0..100 {
        brook += counts(&stage, 1).await.get("brook").copied().unwrap_or_default();
    }
    assert!((20..=80).contains(&brook), "drawn by lot, each with one half: {brook} of 100");
}

#[tokio::test]
async fn shares_are_weighted_by_subscription() {
    let stage = Stage::open().await;
    fill(&stage, "big", 1000, 100, 0).await;
    fill(&stage, "small", 1000, 100, 0).await;
    let shares = "select fn_subscription_set('one', 'test', 'big', p_share => 3), fn_subscription_set('one', 'test', 'small')";
    stage.client.batch_execute(shares).await.unwrap();
    let counts = counts(&stage, 100).await;
    assert!(counts["big"].abs_diff(75) <= 1 && counts["small"].abs_diff(25) <= 1, "{counts:?}");
}

#[tokio::test]
async fn priorities_age_so_that_the_lowest_still_moves() {
    let stage = Stage::open().await;
    stage.set("queue.priority.aging_seconds", "2").await;
    fill(&stage, "normal", 100, 100, 0).await;
    fill(&stage, "low", 10, 105, 9).await;
    assert_eq!(counts(&stage, 4).await, of(&[("normal", 4)]), "four steps in nine seconds are not five");
    stage
        .client
        .batch_execute(
            "update job_queue set scheduled_at = scheduled_at - interval '2 seconds' where job_kind = 'low'",
        )
        .await
        .unwrap();
    assert_eq!(counts(&stage, 4).await, of(&[("normal", 2), ("low", 2)]), "an equal among equals, not more");
    stage.set("queue.priority.aging_seconds", "0").await;
    assert_eq!(counts(&stage, 4).await, of(&[("normal", 4)]), "0 is never");
}

#[tokio::test]
async fn within_a_lane_the_oldest_come_first() {
    let stage = Stage::open().await;
    for (name, seconds) in [("second", 20), ("third", 10), ("first", 30)] {
        let at = format!("{} seconds", -seconds);
        let make = "insert into job_queue (job_kind, actor, idempotency_key, source_ref, scheduled_at)
            values ('any', 'test', $1::text, $1::text, clock_timestamp() + $2::text::interval)";
        stage.client.execute(make, &[&name, &at]).await.unwrap();
    }
    stage.job("any", "later", json!({"scheduled_at": "2100-01-01T00:00:00Z"})).await;
    assert_eq!(stage.names(10).await, ["first", "second", "third"]);
}

#[tokio::test]
async fn small_claims_share_by_weight_too() {
    let stage = Stage::open().await;
    fill(&stage, "big", 1000, 100, 0).await;
    fill(&stage, "small", 1000, 100, 0).await;
    let shares = "select fn_subscription_set('one', 'test', 'big', p_share => 3), fn_subscription_set('one', 'test', 'small')";
    stage.client.batch_execute(shares).await.unwrap();
    for limit in [1, 2, 3] {
        let mut small = 0;
        for _ in 0..120 {
            small += counts(&stage, limit).await.get("small").copied().unwrap_or_default();
        }
        let percent = small * 100 / (120 * usize::try_from(limit).unwrap());
        assert!((13..=37).contains(&percent), "a quarter is meant: {percent} % by {limit}");
    }
}

#[tokio::test]
async fn what_has_only_aged_leaves_half_to_what_is_urgent_itself() {
    let stage = Stage::open().await;
    for kind in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        fill(&stage, kind, 100, 100, 2000).await;
    }
    fill(&stage, "urgent", 100, 0, 0).await;
    assert_eq!(counts(&stage, 40).await["urgent"], 20);
}
