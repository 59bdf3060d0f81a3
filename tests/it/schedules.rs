//! Schedules: jobs at times, each tick once, whatever the clocks, the outages and the other sidecars do.

mod clocks;
mod maintenance;
mod missed;
mod races;
mod stage;
mod states;
mod words;
