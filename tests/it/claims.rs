//! Who gets which job: pauses, subscriptions, priorities, order, limits.

mod fairness;
mod limits;
mod marks;
mod meetings;
mod order;
mod pauses;
mod stage;
mod subscriptions;
