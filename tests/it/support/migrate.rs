//! The schema of the tests' databases.

use std::fs;
use std::path::PathBuf;

use tokio_postgres::Client;

/// Applies the numbered `migrations/*/{up,functions}.sql` in order, as psql would.
pub(super) async fn migrate(client: &Client) {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let entries = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path());
    let numbered = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().first().is_some_and(u8::is_ascii_digit))
    };
    let mut folders: Vec<PathBuf> = entries.filter(numbered).collect();
    folders.sort();
    client.batch_execute("set search_path to public").await.unwrap();
    for file in folders.iter().flat_map(|folder| [folder.join("up.sql"), folder.join("functions.sql")]) {
        let sql = fs::read_to_string(&file).unwrap_or_default();
        if let Err(e) = client.batch_execute(&sql).await {
            panic!("{}: {:?}", file.display(), e.as_db_error());
        }
    }
}
