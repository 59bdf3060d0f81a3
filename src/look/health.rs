//! Everything that can fall silent, be late or stand in the way: what `reveille health` answers.

use deadpool_postgres::GenericClient;

use crate::error::Result;
use crate::store::backlog::{self, PATIENCE, Unclaimed};
use crate::store::health::{self, Component};
use crate::store::recipients::{self, Standing};
use crate::store::watch;

/// All components, those of `v_queue_health` first; [`Component::is_ill`] says at which somebody must look.
pub async fn components(client: &impl GenericClient) -> Result<Vec<Component>> {
    let mut components = health::list(client).await?;
    let unclaimed = backlog::unclaimed(client, PATIENCE).await?;
    // a kind of which nobody is alive is a backlog of the view
    components.extend(unclaimed.iter().filter(|one| one.reason == "not_subscribed").map(component));
    components.extend(recipients::standing(client).await?.and_then(|standing| told(&standing)));
    components.extend(watch::check(client).await?);
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
fn told(standing: &Standing) -> Option<Component> {
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
