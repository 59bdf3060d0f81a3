//! What a terminal shows of a long command, and what it is left with.

use std::process::Command;

use crate::cli::{output, reveille};
use crate::support::{Outbox, TestDb};

/// What `reveille` with these words says to a terminal of its own.
fn on_a_terminal(url: &str, words: &str) -> String {
    let line = format!("stty cols 120 rows 40; exec {} {words}", env!("CARGO_BIN_EXE_reveille"));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    script.env("DATABASE_URL", url).env("TERM", "xterm").current_dir(env!("CARGO_TARGET_TMPDIR"));
    let (code, out, err) = output(&mut script);
    assert_eq!(code, Some(0), "{out}{err}");
    out
}

/// What stands there in the end: text, returns, lines erased, the cursor moved up.
fn screen(said: &str) -> String {
    let (mut lines, mut row, mut column) = (vec![Vec::new()], 0_usize, 0);
    let mut rest = said.chars();
    while let Some(letter) = rest.next() {
        match letter {
            '\r' => column = 0,
            '\n' => row += 1,
            '\x1b' => {
                let code: String = rest.by_ref().skip(1).take_while_inclusive(|c| !c.is_ascii_alphabetic());
                match code.as_str() {
                    "2K" => lines[row].clear(),
                    "K" => lines[row].truncate(column),
                    up if up.ends_with('A') => {
                        row -= up[..up.len() - 1].parse::<usize>().unwrap_or(1).min(row);
                    }
                    _ => {}
                }
            }
            letter => {
                let line: &mut Vec<char> = &mut lines[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = letter;
                column += 1;
            }
        }
        lines.resize(lines.len().max(row + 1), Vec::new());
    }
    lines.into_iter().map(|line| line.into_iter().collect::<String>() + "\n").collect()
}

/// As [`Iterator::take_while`], with the one that ends it.
trait TakeWhileInclusive: Iterator<Item = char> + Sized {
    fn take_while_inclusive(self, goes_on: impl Fn(char) -> bool) -> String {
        let mut taken = String::new();
        for letter in self {
            taken.push(letter);
            if !goes_on(letter) {
                break;
            }
        }
        taken
    }
}

impl<I: Iterator<Item = char>> TakeWhileInclusive for I {}

#[tokio::test]
async fn an_audit_on_a_terminal_shows_part_counts_and_what_is_left_and_leaves_its_answer_alone() {
    let outbox = Outbox::with_two_consumers().await;
    outbox.emit(6000).await; // more than one statement looks at
    outbox.answer("fn_event_sweep(p_margin => interval '0')").await;
    outbox.drain(10_000).await;
    outbox.answer("fn_event_sweep(p_margin => interval '0')").await;
    outbox.answer("fn_dispatch_audit_pass()").await;
    let words = "events audit --domain iu --since 1h";
    let said = on_a_terminal(&outbox.db.url(), words);
    for part in [" %  ", "5000 of about ", "s left", "iu: 0 missing"] {
        assert!(said.contains(part), "no `{part}` in {said:?}");
    }
    let left = screen(&said);
    assert!(left.contains("6000") && !left.contains("of about"), "{left}");
    assert_eq!(left.lines().next().map(|line| line.contains("domain")), Some(true), "{left}");

    let words: Vec<&str> = words.split(' ').collect();
    for more in [&[][..], &["--json"]] {
        let (code, out, err) = output(reveille(&words).args(more).env("DATABASE_URL", outbox.db.url()));
        assert_eq!((code, err.as_str()), (Some(0), ""), "where there is no terminal nothing is drawn: {out}");
        assert!(!out.contains('\x1b'), "{out:?}");
    }
}

#[tokio::test]
async fn a_migration_on_a_terminal_shows_which_step_it_is_at() {
    let db = TestDb::new().await;
    let said = on_a_terminal(&db.url(), "migrate down --to 0 --dry-run");
    for part in [" of about ", "s left", "013_explain"] {
        assert!(said.contains(part), "no `{part}` in {said:?}");
    }
    let left = screen(&said);
    assert!(left.contains("everything was taken back") && !left.contains("of about"), "{left}");
}

#[tokio::test]
async fn what_cannot_say_how_far_it_is_shows_that_it_goes_on() {
    let db = TestDb::new().await;
    let open = "select fn_gate_set('queue.dlq.replay_enabled', 'true', 'test', 'a test')";
    db.client().await.execute(open, &[]).await.unwrap();
    let said = on_a_terminal(&db.url(), "dlq redrive --limit 7 --authorization test");
    assert!(said.contains("trying to replay up to 7 dead letters"), "{said:?}");
    let left = screen(&said);
    assert!(left.contains("0 of 0 dead letters") && !left.contains("trying"), "{left}");
}
