//! What becomes of a job that does not end well: retries, lost leases, dead letters, replay.

mod archive;
mod archive_keys;
mod archive_months;
mod archive_races;
mod dead_letters;
mod fencing;
mod hour;
mod moves;
mod reaper;
mod retry;
mod silence;
mod stage;
mod told;
