//! Jobs: their statuses.

/// The nine statuses, in the order of a job's life.
pub const STATUSES: [&str; 9] = [
    "queued",
    "leased",
    "in_progress",
    "succeeded",
    "failed",
    "retry_waiting",
    "dead_letter",
    "cancelled",
    "cleaned",
];
