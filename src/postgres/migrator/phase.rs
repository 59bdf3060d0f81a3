//! The phases that this binary carries, and what identifies their text.

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
    fn line_ends_do_not_change_a_checksum() {
        assert_eq!(checksum("a\r\nb\r\n"), checksum("a\nb\n"));
        assert_ne!(checksum("a"), checksum("b"));
        assert!(checksum("").starts_with("e3b0c44298fc1c14"));
    }
}
