//! Explanations: each reason is told of an event or a job that was really brought into that state.

mod commands;
mod counts;
mod events;
mod jobs;
mod lanes;
mod stage;
mod unread;
mod workflows;
