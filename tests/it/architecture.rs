//! `docs/ARCHITECTURE.md` speaks of what is there.

use std::path::{Path, PathBuf};

const TEXT: &str = include_str!("../../docs/ARCHITECTURE.md");

fn root(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The words in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// All text of a file, or of a folder's files.
fn read(path: &Path) -> String {
    if path.is_file() {
        return std::fs::read_to_string(path).unwrap();
    }
    std::fs::read_dir(path).unwrap().map(|entry| read(&entry.unwrap().path())).collect()
}

/// The numbered steps of the life of one event.
fn steps() -> Vec<&'static str> {
    let life = TEXT.split("\n## ").find(|part| part.starts_with("The life of one event")).unwrap();
    let is_number =
        |line: &str| line.split_once(". **").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
    let starts = life.match_indices('\n').map(|(at, _)| at + 1).filter(|at| is_number(&life[*at..]));
    let starts: Vec<usize> = starts.collect();
    let ends = starts.iter().skip(1).copied().chain([life.len()]);
    starts.iter().zip(ends).map(|(start, end)| &life[*start..end]).collect()
}

#[test]
fn every_path_exists() {
    for path in quoted(TEXT).filter(|word| word.contains('/')) {
        assert!(root(path).exists(), "{path}");
    }
}

#[test]
fn every_name_of_a_step_stands_in_a_file_of_that_step() {
    let steps = steps();
    assert_eq!(steps.len(), 15);
    for step in steps {
        let (paths, names): (Vec<&str>, Vec<&str>) = quoted(step).partition(|word| word.contains('/'));
        let texts: String = paths.iter().map(|path| read(&root(path))).collect();
        for name in names.iter().filter(|name| !name.contains(' ')) {
            let (name, is_whole) = name.split_once('<').map_or((*name, true), |(prefix, _)| (prefix, false));
            let goes_on = |char: char| is_whole && (char.is_alphanumeric() || char == '_');
            let stands = |(at, _): (usize, &str)| {
                !texts[..at].ends_with(goes_on) && !texts[at + name.len()..].starts_with(goes_on)
            };
            assert!(texts.match_indices(name).any(stands), "`{name}` is not in {paths:?}");
        }
    }
}

#[test]
fn the_floors_are_those_of_the_house() {
    let mut floor = "";
    for line in include_str!("../../src/lib.rs").lines() {
        if let Some(comment) = line.strip_prefix("// ") {
            floor = comment.split(' ').next().unwrap();
        } else if let Some(module) = line.strip_prefix("pub mod ") {
            let module = module.trim_end_matches(';');
            let mut rows = TEXT.lines().filter(|line| line.starts_with(&format!("| {floor} ")));
            assert!(rows.any(|row| quoted(row).any(|word| word == module)), "{module} on floor {floor}");
        }
    }
}
