//! What `reveille health` and `/metrics` say of workflows, routes and schedules.

mod deep;
mod health;
mod metrics;
mod plans;
mod stage;
