//! Reads commands from what a finding says, as a person would.

/// How commands and statements begin.
const BEGINNINGS: [&str; 10] = [
    "reveille ",
    "export ",
    "select ",
    "alter table ",
    "insert into ",
    "rollback ",
    "drop ",
    "create role ",
    "CREATE ",
    "reindex ",
];

/// The commands of a mend, in order. What follows an `or` is taken only where nothing before can be run: advice in words, a
/// program that runs already, or a line with a blank that the reader must fill.
pub(crate) fn steps(mend: &str) -> Vec<String> {
    let mut steps = Vec::new();
    for piece in mend.split("; ") {
        if !steps.is_empty() && ["or ", "or:", "or,"].iter().any(|or| piece.starts_with(or)) {
            break;
        }
        steps.extend(command(piece));
    }
    steps
}

fn command(piece: &str) -> Option<String> {
    let begins = |at: usize| at == 0 || piece[..at].ends_with(' ');
    let places = BEGINNINGS.iter().filter_map(|word| piece.find(word).filter(|at| begins(*at)));
    let line = &piece[places.min()?..];
    let is_sql = !line.starts_with("reveille ") && !line.starts_with("export ");
    let line = if is_sql { line } else { line.split(" (").next().unwrap_or(line) };
    let runs_already = ["reveille run", "reveille work"].iter().any(|one| line.starts_with(one));
    let has_blank = line.split(' ').any(|word| word == "ID");
    (!runs_already && !has_blank).then(|| line.to_owned())
}
