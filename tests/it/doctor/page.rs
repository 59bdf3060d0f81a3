//! `docs/runbooks/doctor.md` and the code name the same findings, and its commands work.

use reveille::model::sorts;

use super::Patient;
use crate::readme::run_in_shell;

const PAGE: &str = include_str!("../../../docs/runbooks/doctor.md");

#[test]
fn the_page_names_the_findings_of_the_code_their_severity_and_why_they_matter() {
    let rows = PAGE.lines().filter(|line| line.starts_with("| `")).map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert!(cells.len() == 4 && !cells[3].is_empty(), "{line}");
        (cells[0].trim_matches('`').to_owned(), cells[1].to_owned(), cells[2].to_owned())
    });
    let listed: Vec<_> = rows.collect();
    let known: Vec<_> = sorts::ALL
        .iter()
        .map(|sort| (sort.name.to_owned(), sort.severity.to_owned(), sort.why.to_owned()))
        .collect();
    for (listed, known) in listed.iter().zip(&known) {
        assert_eq!(listed, known, "docs/runbooks/doctor.md (left) and src/model/sorts.rs (right)");
    }
    assert_eq!(listed.len(), known.len());
}

#[tokio::test]
async fn every_command_of_the_page_works() {
    let patient = Patient::new().await;
    for block in PAGE.split("\n```").skip(1).step_by(2) {
        match block.split_once('\n').unwrap() {
            ("sh", lines) => run_in_shell(&patient.db, lines),
            ("sql", statements) => patient.run(statements).await,
            (other, _) => panic!("a block of {other}"),
        }
    }
}
