//! Embeds the migrations: one entry per folder of `migrations/` whose name begins with three digits.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=migrations");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or(io::ErrorKind::NotFound)?);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    let mut folders: Vec<PathBuf> = fs::read_dir(root.join("migrations"))?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.is_dir() && numbered(path))
        .collect();
    folders.sort();

    let mut code = String::from("&[\n");
    for folder in &folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let (number, title) = name.split_at(3);
        let part = |file: &str| format!("include_str!({:?})", folder.join(file).display().to_string());
        writeln!(
            code,
            "    Phase {{ number: {}, name: {:?}, up: {}, functions: {}, down: {} }},",
            number.trim_start_matches('0'),
            title.trim_start_matches('_'),
            part("up.sql"),
            part("functions.sql"),
            part("down.sql"),
        )
        .map_err(io::Error::other)?;
    }
    code.push_str("]\n");
    fs::write(out.join("phases.rs"), code)
}

fn numbered(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.len() > 4 && name.as_bytes()[..3].iter().all(u8::is_ascii_digit))
}
