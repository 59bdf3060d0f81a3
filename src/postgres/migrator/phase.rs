//! The phases that this binary carries, and what identifies their text.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

/// One folder of `migrations/`: tables once, functions whenever their text changes, and the way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    /// Its place in the order, from 1.
    pub number: u32,
    /// The folder's name after the number.
    pub name: &'static str,
    /// Text of `up.sql`.
    pub up: &'static str,
    /// Text of `functions.sql`.
    pub functions: &'static str,
    /// Text of `down.sql`.
    pub down: &'static str,
}

/// Every phase, in order; written by `build.rs`.
pub static PHASES: &[Phase] = include!(concat!(env!("OUT_DIR"), "/phases.rs"));

impl Phase {
    /// `003_job_substrate`, as the folder is called.
    pub fn folder(&self) -> String {
        format!("{:03}_{}", self.number, self.name)
    }

    pub(super) fn up_checksum(&self) -> String {
        checksum(self.up)
    }

    pub(super) fn functions_checksum(&self) -> String {
        checksum(self.functions)
    }

    /// The functions, procedures and views that `functions.sql` makes, each with how many of its name.
    pub(super) fn routines(&self) -> BTreeMap<&'static str, usize> {
        let mut routines = BTreeMap::new();
        for line in self.functions.lines() {
            let Some(made) = line.strip_prefix("create or replace ") else { continue };
            let kinds = ["function ", "procedure ", "view "];
            let Some(made) = kinds.iter().find_map(|kind| made.strip_prefix(kind)) else { continue };
            let name = made.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next();
            *routines.entry(name.unwrap_or_default()).or_default() += 1;
        }
        routines
    }

    /// The names of what is noted when it is made: routines, triggers, tables.
    pub(super) fn part_names(&self) -> Vec<&'static str> {
        let mut names: Vec<&str> = self.routines().into_keys().collect();
        names.extend(made(self.functions, &["create or replace trigger "]));
        names.extend(made(self.up, &["create table "]));
        names.retain(|name| *name != "if");
        names
    }

    /// The names of the indexes that `up.sql` makes.
    pub(super) fn index_names(&self) -> Vec<&'static str> {
        made(self.up, &["create index ", "create unique index "]).collect()
    }
}

/// The words that follow one of `beginnings` at the start of a line, blanks aside.
fn made(text: &'static str, beginnings: &'static [&'static str]) -> impl Iterator<Item = &'static str> {
    let name =
        |rest: &'static str| rest.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next();
    text.lines().filter_map(move |line| {
        beginnings.iter().find_map(|beginning| line.trim_start().strip_prefix(beginning)).and_then(name)
    })
}

/// SHA-256 in hexadecimal; a checkout with CRLF line ends is the same text.
fn checksum(text: &str) -> String {
    use std::fmt::Write as _;
    let digest = Sha256::digest(text.replace("\r\n", "\n").as_bytes());
    digest.iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_numbered_without_a_gap() {
        let numbers: Vec<u32> = PHASES.iter().map(|phase| phase.number).collect();
        let expected: Vec<u32> = (1..=u32::try_from(PHASES.len()).unwrap()).collect();
        assert_eq!(numbers, expected);
    }

    #[test]
    fn what_functions_sql_makes_is_known_by_name() {
        let functions = "-- create or replace function no()\ncreate or replace function fn_a(p int)\n\
            create or replace function fn_a() returns text\ncreate or replace view v_b as\n  select 1;\n\
            create or replace trigger no\n";
        let phase = Phase { number: 1, name: "a", up: "", functions, down: "" };
        assert_eq!(phase.routines(), BTreeMap::from([("fn_a", 2), ("v_b", 1)]));
        assert!(PHASES.iter().all(|phase| !phase.routines().contains_key("")));
        let up = "create table t (\ncreate table if not exists h (\n  create unique index i on t (a);\n";
        let phase = Phase { up, ..phase };
        assert_eq!(phase.part_names(), ["fn_a", "v_b", "no", "t"]);
        assert_eq!(phase.index_names(), ["i"]);
    }

    #[test]
    fn line_ends_do_not_change_a_checksum() {
        assert_eq!(checksum("a\r\nb\r\n"), checksum("a\nb\n"));
        assert_ne!(checksum("a"), checksum("b"));
        assert!(checksum("").starts_with("e3b0c44298fc1c14"));
    }
}
