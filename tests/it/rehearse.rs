//! Rehearsals: what a changed row would do; jobs of past events, counted first, made once, stopped and resumed.

mod alike;
mod bounds;
mod diff;
mod garbage;
mod numbers;
mod obstacles;
mod page;
mod program;
mod replays;
mod stage;
mod together;
