//! The house guards itself: each module uses lower floors only, SQL stays where it belongs, files stay
//! short. `src/lib.rs` says which module stands on which floor; this file only reads it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use syn::parse::ParseStream;
use syn::visit::{self, Visit};

/// The folders that may hold statements.
const SQL_HOMES: [&str; 2] = ["store", "postgres"];
/// Most lines of a file without a reason; unit tests at its end are not counted.
const LINES: usize = 300;
/// How a longer file gives its reason.
const REASON: &str = "// long because:";

/// The floor of each module, read from the comments of `lib.rs`.
fn floors() -> BTreeMap<String, u32> {
    let mut floor = 0;
    let mut floors = BTreeMap::new();
    for line in std::fs::read_to_string(source().join("lib.rs")).unwrap().lines() {
        let number = line.strip_prefix("// ").and_then(|text| text.split(' ').next()?.parse().ok());
        if let Some(number) = number {
            floor = number;
        } else if let Some(name) = line.strip_prefix("pub mod ").and_then(|name| name.strip_suffix(';')) {
            floors.insert(name.to_owned(), floor);
        }
    }
    floors
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every Rust file below `folder`.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The module path of a file: `src/config/read.rs` is `config::read`, `src/cli/mod.rs` is `cli`.
fn module_of(file: &Path) -> Vec<String> {
    let relative = file.strip_prefix(source()).unwrap().with_extension("");
    let mut parts: Vec<String> =
        relative.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

/// What one file uses of the crate, and the strings it holds.
struct Reading {
    module: Vec<String>,
    inner: usize,
    used: Vec<String>,
    strings: Vec<String>,
}

impl Reading {
    fn of(module: Vec<String>, code: &str) -> Self {
        let mut reading = Self { module, inner: 0, used: Vec::new(), strings: Vec::new() };
        reading.visit_file(&syn::parse_file(code).unwrap());
        reading
    }

    /// Notes the top module that a path leads to, from `crate::…` or enough `super::`.
    fn note(&mut self, parts: &[String]) {
        let ups = parts.iter().take_while(|part| *part == "super").count();
        let top = match parts.first().map(String::as_str) {
            Some("crate" | "reveille") => parts.get(1),
            Some("super") if ups == self.module.len() + self.inner => parts.get(ups),
            _ => None,
        };
        self.used.extend(top.cloned());
    }

    fn note_tree(&mut self, before: &[String], tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => {
                let parts = [before, &[path.ident.to_string()]].concat();
                self.note_tree(&parts, &path.tree);
            }
            syn::UseTree::Name(name) => self.note(&[before, &[name.ident.to_string()]].concat()),
            syn::UseTree::Rename(name) => self.note(&[before, &[name.ident.to_string()]].concat()),
            syn::UseTree::Glob(_) => self.note(before),
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.note_tree(before, tree));
            }
        }
    }
}

impl<'ast> Visit<'ast> for Reading {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.note_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.note(&parts);
        visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.inner += 1;
        visit::visit_item_mod(self, item);
        self.inner -= 1;
    }

    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {} // documentation is neither use nor SQL

    fn visit_lit_str(&mut self, text: &'ast syn::LitStr) {
        self.strings.push(text.value());
    }

    /// The inside of a macro is only words: its paths and strings are picked out by their looks.
    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let words = call.tokens.to_string();
        for piece in words.split("crate :: ").skip(1) {
            let name = piece.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
            self.used.push(name.to_owned());
        }
        let strings = &mut self.strings;
        call.parse_body_with(|input: ParseStream<'_>| strings_in(input, strings)).unwrap();
        visit::visit_macro(self, call);
    }
}

/// Adds the string literals among the tokens of a macro, groups within groups included.
fn strings_in(input: ParseStream<'_>, found: &mut Vec<String>) -> syn::Result<()> {
    while !input.is_empty() {
        let inside;
        if input.peek(syn::LitStr) {
            found.push(input.parse::<syn::LitStr>()?.value());
        } else if input.peek(syn::token::Paren) {
            syn::parenthesized!(inside in input);
            strings_in(&inside, found)?;
        } else if input.peek(syn::token::Bracket) {
            syn::bracketed!(inside in input);
            strings_in(&inside, found)?;
        } else if input.peek(syn::token::Brace) {
            syn::braced!(inside in input);
            strings_in(&inside, found)?;
        } else {
            input.step(|cursor| {
                Ok(((), cursor.token_tree().map_or(syn::buffer::Cursor::empty(), |next| next.1)))
            })?;
        }
    }
    Ok(())
}

/// Whether a string looks like a statement, and not like a sentence.
fn looks_like_sql(text: &str) -> bool {
    let text = text.trim_start().to_lowercase();
    let words: Vec<&str> = text.split_whitespace().collect();
    let has = |word: &str| words.contains(&word);
    match words.as_slice() {
        ["select", rest @ ..] => {
            rest.iter().any(|word| *word == "from" || word.contains('(')) || rest == ["1"]
        }
        ["insert", "into", ..] | ["delete", "from", ..] => words.len() > 2,
        ["update", _, ..] => has("set"),
        ["with", _, "as", ..] | ["with", "recursive", ..] => true,
        ["create" | "alter" | "drop", what, _, ..] => [
            "table",
            "schema",
            "function",
            "index",
            "trigger",
            "database",
            "view",
            "sequence",
            "role",
            "or",
            "temp",
            "temporary",
            "unlogged",
            "unique",
            "extension",
            "type",
            "policy",
        ]
        .contains(what),
        ["listen" | "notify" | "unlisten", channel] => !channel.ends_with('.'),
        ["set", rest @ ..] => rest.contains(&"to") || rest.contains(&"local"),
        ["begin" | "commit" | "rollback" | "vacuum" | "analyze" | "copy", rest @ ..] => {
            rest.is_empty() || text.ends_with(';')
        }
        _ => false,
    }
}

fn readings() -> Vec<(PathBuf, Reading)> {
    let read = |file: PathBuf| {
        let code = std::fs::read_to_string(&file).unwrap();
        let reading = Reading::of(module_of(&file), &code);
        (file, reading)
    };
    rust_files(&source()).into_iter().map(read).collect()
}

#[test]
fn a_module_uses_lower_floors_only_and_never_a_sibling() {
    let floors = floors();
    assert!(floors.len() >= 10, "lib.rs could not be read: {floors:?}");
    let mut breaches = Vec::new();
    for (file, reading) in readings() {
        let Some(home) = reading.module.first().filter(|home| *home != "main" && *home != "lib") else {
            continue;
        };
        let floor = floors.get(home).unwrap_or_else(|| panic!("{} is not in lib.rs", file.display()));
        for used in &reading.used {
            match floors.get(used) {
                Some(other) if used != home && other >= floor => {
                    breaches.push(format!(
                        "{}: `{home}` (floor {floor}) uses `{used}` (floor {other})",
                        file.display()
                    ));
                }
                _ => {}
            }
        }
    }
    // the ground floor is shared: its modules have nothing of ours beneath, and may not meet either
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn sql_stands_in_store_and_postgres_and_nowhere_else() {
    let mut breaches = Vec::new();
    for (file, reading) in readings() {
        if reading.module.first().is_some_and(|home| SQL_HOMES.contains(&home.as_str())) {
            continue;
        }
        let found = reading.strings.iter().filter(|text| looks_like_sql(text));
        breaches.extend(found.map(|text| format!("{}: {text}", file.display())));
    }
    assert!(breaches.is_empty(), "SQL outside src/store and src/postgres:\n{}", breaches.join("\n"));
}

#[test]
fn no_file_is_longer_than_a_reader_wants_without_a_reason() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut breaches = Vec::new();
    for file in [rust_files(&source()), rust_files(&tests)].concat() {
        let code = std::fs::read_to_string(&file).unwrap();
        let lines = code.lines().take_while(|line| *line != "#[cfg(test)]").count();
        if lines > LINES
            && !code.lines().any(|line| line.starts_with(REASON) && line.len() > REASON.len() + 10)
        {
            breaches.push(format!("{}: {lines} lines; split it, or add a line `{REASON} …`", file.display()));
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn the_guards_see_what_they_guard_against() {
    let code = "
        use crate::{app::App, store as tables};
        use super::super::http;
        use super::sibling;
        fn f() { crate::cli::run(); log!(\"x\", [crate::work::y, \"delete from t\"]); }
        mod inner { use super::super::super::maintain::z; }";
    let reading = Reading::of(vec!["config".to_owned(), "read".to_owned()], code);
    assert_eq!(reading.used, ["app", "store", "http", "cli", "work", "maintain"]);
    assert!(reading.strings.contains(&"delete from t".to_owned()));
    for sql in [
        "select 1",
        "SELECT a\nFROM b",
        "update t set a = 1",
        "listen queue_control",
        "create table t (a int)",
    ] {
        assert!(looks_like_sql(sql), "{sql}");
    }
    for words in
        ["select a shell", "update the file", "create a table of it", "set it in DATABASE_URL", "listen"]
    {
        assert!(!looks_like_sql(words), "{words}");
    }
}
