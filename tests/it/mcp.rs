//! `reveille mcp` as an agent's program meets it: a child process that is spoken to over its pipes.

mod client;
mod faults;
mod looks;
mod page;
mod protocol;
mod work;
