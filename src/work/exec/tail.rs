//! What a program says: its end is kept, the rest is only passed on.

use tokio::io::{AsyncRead, AsyncReadExt};

/// How much of the end is kept.
const KEPT: usize = 64 * 1024;
/// A longer line is passed on in pieces.
const LINE: usize = 8 * 1024;
/// How much of the last line becomes an error.
const WORDS: usize = 2_000;

/// The end of an output.
#[derive(Debug, Default)]
pub(super) struct Tail {
    bytes: Vec<u8>,
    /// What stands after the last line end, to be passed on.
    line: Vec<u8>,
}

impl Tail {
    /// Reads to the end, however much it is; gives each line away as it comes.
    pub(super) async fn read(&mut self, from: Option<impl AsyncRead + Unpin>, mut each: impl FnMut(&str)) {
        let Some(mut from) = from else { return };
        let mut buffer = vec![0; LINE];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            self.take(&buffer[..read], &mut each);
        }
        give(&mut self.line, &mut each);
    }

    fn take(&mut self, bytes: &[u8], each: &mut impl FnMut(&str)) {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > 2 * KEPT {
            self.bytes.drain(..self.bytes.len() - KEPT);
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.line.len() > LINE {
                give(&mut self.line, each);
            }
        }
    }

    /// The last line that is not empty, in whole.
    pub(super) fn last_line(&self) -> Option<String> {
        let mut lines = self.bytes.rsplit(|byte| *byte == b'\n');
        let line = lines.find(|line| !line.trim_ascii().is_empty())?;
        Some(String::from_utf8_lossy(line.trim_ascii()).into_owned())
    }

    /// The same, short enough for an error.
    pub(super) fn last_words(&self) -> Option<String> {
        self.last_line().map(|line| line.chars().take(WORDS).collect())
    }
}

fn give(line: &mut Vec<u8>, each: &mut impl FnMut(&str)) {
    let words = String::from_utf8_lossy(line);
    if !words.trim().is_empty() {
        each(words.trim_end());
    }
    line.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail_of(chunks: &[&[u8]]) -> (Tail, Vec<String>) {
        let (mut tail, mut lines) = (Tail::default(), Vec::new());
        for chunk in chunks {
            tail.take(chunk, &mut |line: &str| lines.push(line.to_owned()));
        }
        (tail, lines)
    }

    #[test]
    fn the_last_line_that_is_not_empty_counts() {
        assert_eq!(tail_of(&[]).0.last_line(), None);
        assert_eq!(tail_of(&[b" \n\n"]).0.last_line(), None);
        let (tail, lines) = tail_of(&[b"one\ntw", b"o\r\n \n\xff"]);
        assert_eq!(tail.last_line().as_deref(), Some("\u{fffd}"));
        assert_eq!(lines, ["one", "two"]);
    }

    #[test]
    fn a_chatty_program_costs_no_more_memory_than_a_quiet_one() {
        let (tail, lines) = tail_of(&vec![[b'x'; LINE].as_slice(); 1000]);
        assert!(tail.bytes.len() <= 2 * KEPT && tail.line.len() <= 2 * LINE);
        assert!(lines.iter().all(|line| line.len() <= 2 * LINE));
        assert_eq!(tail.last_words().unwrap().len(), WORDS);
    }
}
