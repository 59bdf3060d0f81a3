//! What gets what: each failure has a line that says what, where and what to do; `run` keeps trying where that can
//! help and exits where it cannot; no state is lost by any of them; nothing secret is ever said.

mod denied;
mod disk;
mod gates;
mod pauses;
mod pooler;
mod roles;
mod schema;
mod server;
mod settings;
mod unclaimed;
mod unreachable;
