//! The audit: what it proves, what it finds and mends, and that it cries no wolf.

mod claims;
mod cut;
mod forgotten;
mod gaps;
mod plans;
mod quiet;
mod stage;
mod told;
