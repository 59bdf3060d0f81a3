//! `docs/runbooks/first-day.md` is what a newcomer reads; its commands work, and it names the ten faults of the test.

use super::TEN;
use crate::doctor::Patient;
use crate::readme::follow;

const PAGE: &str = include_str!("../../../docs/runbooks/first-day.md");

#[test]
fn the_page_of_the_first_day_has_a_row_for_each_of_the_ten_faults() {
    for (name, ..) in TEN {
        assert!(PAGE.contains(&format!("| `{name}` |")), "{name}");
    }
}

#[tokio::test]
async fn every_command_of_the_page_of_the_first_day_works() {
    let patient = Patient::new().await;
    follow(&patient.db, PAGE).await;
}
