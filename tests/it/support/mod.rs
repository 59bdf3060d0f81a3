//! What the tests share: databases, servers, a faulty network, and waiting without sleeping.
#![allow(dead_code, unused_imports, reason = "each test file uses some of it")]

mod database;
mod dice;
mod ear;
mod flow;
mod folder;
mod mend;
mod outbox;
mod pooler;
mod program;
mod proxy;
mod settings;
mod sidecar;
mod skip;
mod small_disk;
mod wait;

pub(crate) use database::{
    TestDb, connect, login, open_gates, own_server, password, quiet_options, shared_server,
};
pub(crate) use dice::Dice;
pub(crate) use ear::heard;
pub(crate) use flow::{DOMAIN, all_became_jobs, emit_at_once, emit_each, flow, open_flow};
pub(crate) use folder::{Folder, copy_program, script};
pub(crate) use mend::steps;
pub(crate) use outbox::{Outbox, emit};
pub(crate) use pooler::{Pooler, Pooling};
pub(crate) use program::{Ended, Program, SECRET, with_secret};
pub(crate) use proxy::{Mode, Proxy};
pub(crate) use settings::{database_at, server_at};
pub(crate) use sidecar::{NEVER, Sidecar, listening, polling, woken};
pub(crate) use skip::{lacking, skipped};
pub(crate) use small_disk::SmallDisk;
pub(crate) use wait::{SOON, wait_for, wait_until};
