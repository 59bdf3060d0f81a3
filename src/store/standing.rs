//! Everything that may need somebody, and each in a sentence: what `reveille health` and the first page show.

use deadpool_postgres::GenericClient;
use futures::future::try_join4;

use super::backlog::{self, PATIENCE, Unclaimed};
use super::health::{self, Component};
use super::{recipients, watch};
use crate::error::Result;
use crate::model::moment::{printable, seconds};

/// All components of `v_queue_health`, backlog that nobody may claim, recipients, and findings; asked for at once, so that a
/// session that has to plan everything does not wait for us in between.
pub async fn read(client: &impl GenericClient) -> Result<Vec<Component>> {
    let (mut components, unclaimed, standing, findings) = try_join4(
        health::list(client),
        backlog::unclaimed(client, PATIENCE),
        recipients::standing(client),
        watch::check(client),
    )
    .await?;
    // a kind of which nobody is alive is a backlog of the view
    components.extend(unclaimed.iter().filter(|one| one.reason == "not_subscribed").map(component));
    components.extend(standing.and_then(|standing| told(&standing)));
    components.extend(findings);
    Ok(components)
}

/// Backlog outside of everybody's subscriptions, as a component that is ill.
fn component(unclaimed: &Unclaimed) -> Component {
    Component {
        component: "unclaimed".to_owned(),
        name: unclaimed.to_string(),
        status_hint: "stale".to_owned(),
        age_seconds: Some(unclaimed.age_seconds),
        value: Some(f64::from(i32::try_from(unclaimed.due).unwrap_or(i32::MAX))),
        detail: serde_json::to_value(unclaimed).ok(),
    }
}

/// Pairs of domain and stream without a recipient, and subscriptions that nobody can read: a warning, as nothing stops.
fn told(standing: &recipients::Standing) -> Option<Component> {
    let value = standing.nobody + standing.others + standing.malformed;
    (value > 0).then(|| Component {
        component: "subscription".to_owned(),
        name: "recipients".to_owned(),
        status_hint: "warning".to_owned(),
        age_seconds: None,
        value: Some(f64::from(value)),
        detail: serde_json::to_value(standing).ok(),
    })
}

/// One sentence about a component that somebody must look at.
pub fn complaint(ill: &Component) -> String {
    let Component { component, name, .. } = ill;
    let age = ill.age_seconds.map_or_else(|| "an unknown time".to_owned(), seconds);
    match (component.as_str(), ill.status_hint.as_str()) {
        ("executor", "never") => format!("executor {name} is registered and has never beaten"),
        ("executor", _) => format!("executor {name} has been silent for {age}"),
        ("cursor", _) if name == "sweep" => format!("the sweep has proven nothing for {age}"),
        ("cursor", "never") => {
            format!(
                "domain {name} was never dispatched, and an event has waited for {age}: is `reveille run` up?"
            )
        }
        ("cursor", _) => format!("domain {name} is behind: its oldest unread event has waited for {age}"),
        ("backlog", _) => {
            format!("jobs for {name} have waited for {age}, and no executor of that kind is alive")
        }
        ("unclaimed", _) => format!(
            "{} have waited for {age}, and no live executor is subscribed to them: `reveille executors list`",
            printable(name)
        ),
        ("dead_letter", _) => {
            let what = if name == "dispatch_error" {
                "events that a consumer could not digest"
            } else {
                "dead letters"
            };
            format!("{what}: {} wait for somebody, the oldest for {age}", ill.value.unwrap_or_default())
        }
        ("lease", _) => {
            format!("leases that ended unreported: {}, the oldest {age} ago", ill.value.unwrap_or_default())
        }
        _ if is_watched(ill) => found(ill),
        (_, hint) => format!("{component} {name} is {hint} since {age}"),
    }
}

/// Whether what is wrong with it is told as a finding.
pub fn is_watched(one: &Component) -> bool {
    ["workflow", "route", "schedule", "audit", "backfill"].contains(&one.component.as_str())
}

/// What is wrong, since when, why it matters, and what to do; in one line.
pub fn found(one: &Component) -> String {
    let told = |key: &str| one.detail.as_ref().and_then(|detail| detail[key].as_str()).unwrap_or_default();
    let age = one.age_seconds.map(|age| format!(", for {}", seconds(age))).unwrap_or_default();
    let Component { component, name, .. } = one;
    let line = format!("{component} {name}: {}{age}; {}: {}", told("what"), told("why"), told("mend"));
    printable(&line).replace('\n', " ")
}

/// What is paused, since when, by whom and why.
pub fn paused(pause: &Component) -> String {
    let field =
        |name: &str| pause.detail.as_ref().and_then(|detail| detail[name].as_str()).unwrap_or_default();
    let what = match (field("scope"), field("name")) {
        (_, "") => "everything".to_owned(),
        (scope, name) => format!("{scope} {name}"),
    };
    let age = seconds(pause.age_seconds.unwrap_or_default());
    let line = format!("paused: {what}, for {age}, by {}: {}", field("actor"), field("reason"));
    printable(&line).replace('\n', " ")
}

/// Who gets what, where that leaves something out.
pub fn gaps(subscription: &Component) -> String {
    let count =
        |name: &str| subscription.detail.as_ref().map_or(0, |detail| detail[name].as_i64().unwrap_or(0));
    format!(
        "recipients: {} pairs of domain and stream are for nobody, {} only in part or by broadcast; {} malformed rows: \
         `reveille subscriptions gaps`",
        count("nobody"),
        count("others"),
        count("malformed")
    )
}
