//! What is left when the owner of a server is killed: nothing.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use reveille::postgres::embedded::{Options, Search, Throwaway};

use crate::support::{Folder, SOON, copy_program, own_server, quiet_options, wait_until};

/// Where the helper makes its server. Set: this process is the helper.
const PARENT: &str = "REVEILLE_TEST_SERVER_PARENT";

/// Starts a server, says so, and waits until its standard input ends.
#[tokio::test]
#[ignore = "the other process of the tests below"]
async fn helper() {
    let Some(parent) = std::env::var_os(PARENT).map(PathBuf::from) else { return };
    let server = own_server(Options { parent: Some(parent), ..quiet_options() }).await;
    println!("\nserver {} {}", server.pid().unwrap(), server.directory().display());
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await.unwrap().unwrap();
}

/// A process that owns a server.
struct Owner {
    process: Child,
    /// Kept open, for it says more at its end.
    _output: BufReader<ChildStdout>,
    server: u32,
    directory: PathBuf,
}

impl Owner {
    /// Runs the helper below `parent`, through `command`, whose last argument is the test program.
    fn start(mut command: Command, parent: &Path) -> Self {
        command.args(["embedded::remains::helper", "--exact", "--ignored", "--nocapture"]);
        let mut process =
            command.env(PARENT, parent).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut lines = output.by_ref().lines().map(Result::unwrap);
        let said = lines.find(|line| line.starts_with("server ")).unwrap();
        let [_, pid, directory] = said.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{said}") };
        Self { server: pid.parse().unwrap(), directory: directory.into(), process, _output: output }
    }

    fn here(parent: &Path) -> Self {
        Self::start(Command::new(std::env::current_exe().unwrap()), parent)
    }

    /// The shell that watches over the directory.
    fn watcher(&self) -> u32 {
        let found = processes_with(&self.directory).into_iter().find(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("reveille-pg-watcher")
        });
        found.expect("a watcher")
    }

    /// Kills the owner as `kill -9` does.
    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Lets the owner end by itself.
    fn end(mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().unwrap().success());
        assert!(!self.directory.exists());
    }
}

/// The processes that name this path on their command line.
fn processes_with(path: &Path) -> Vec<u32> {
    let path = path.to_str().unwrap();
    let pids = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str().unwrap().parse::<u32>().ok());
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(path)
    })
    .collect()
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

fn kill9(pid: u32) {
    assert!(Command::new("sh").args(["-c", &format!("kill -9 {pid}")]).status().unwrap().success());
}

#[tokio::test]
async fn an_owner_that_is_killed_takes_server_and_directory_along() {
    let parent = Folder::open_to_all();
    let mut owner = Owner::here(parent.path());
    owner.kill();
    wait_until("nothing is left", SOON, async || is_empty(parent.path())).await;
    wait_until("no process is left", SOON, async || processes_with(parent.path()).is_empty()).await;
}

#[tokio::test]
async fn what_an_owner_and_its_watcher_left_when_killed_goes_at_the_next_start() {
    let parent = Folder::open_to_all();
    let mut owner = Owner::here(parent.path());
    kill9(owner.watcher());
    owner.kill();
    wait_until("the kernel has told the server", SOON, async || processes_with(parent.path()).is_empty())
        .await;
    assert!(owner.directory.exists(), "nobody was left to remove it");
    let next = own_server(Options { parent: Some(parent.path().into()), ..quiet_options() }).await;
    assert!(!owner.directory.exists());
    drop(next);
    assert!(is_empty(parent.path()));
}

#[tokio::test]
async fn an_orphaned_server_is_stopped_by_the_next_start() {
    let (parent, programs) = (Folder::open_to_all(), Folder::open_to_all());
    for name in ["sh", "id", "head", "tr", "rm", "sleep"] {
        let program = Search::default().program(name).unwrap();
        symlink(program.canonicalize().unwrap(), programs.path().join(name)).unwrap();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env("PATH", programs.path()); // without setpriv the kernel tells nobody
    command.env("REVEILLE_PG_BIN", Search::default().find().unwrap().folder);
    let mut owner = Owner::start(command, parent.path());
    kill9(owner.watcher());
    owner.kill();
    let alone = async || processes_with(&owner.directory) == [owner.server];
    wait_until("the server lives on alone", SOON, alone).await;
    let next = own_server(Options { parent: Some(parent.path().into()), ..quiet_options() }).await;
    assert_eq!(processes_with(&owner.directory), Vec::<u32>::new());
    assert!(!owner.directory.exists());
    drop(next);
}

#[tokio::test]
async fn the_sweep_spares_living_owners_and_strangers() {
    let parent = Folder::open_to_all();
    let owner = Owner::here(parent.path());
    let strange = parent.path().join("reveille-pg-1-made-just-now");
    fs::create_dir(&strange).unwrap();
    let next = own_server(Options { parent: Some(parent.path().into()), ..quiet_options() }).await;
    assert!(processes_with(&owner.directory).contains(&owner.server));
    assert!(strange.exists(), "it may be in the making");
    drop(next);
    owner.end();
}

#[tokio::test]
async fn an_ordinary_user_can_own_one() {
    let (parent, programs) = (Folder::open_to_all(), Folder::open_to_all());
    if fs::metadata(parent.path()).unwrap().uid() != 0 {
        return; // then all the tests here show it
    }
    let program = programs.path().join("it");
    copy_program(&std::env::current_exe().unwrap(), &program);
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "nobody", "--regid", "65534", "--clear-groups"]).arg(&program);
    command.current_dir("/");
    let owner = Owner::start(command, parent.path());
    let uid = fs::metadata(format!("/proc/{}", owner.server)).unwrap().uid();
    assert_eq!(uid, fs::metadata(&owner.directory).unwrap().uid());
    assert_ne!(uid, 0);
    owner.end();
}

/// Run as root this is about another user, who owns that directory; else about files of our own.
#[tokio::test]
async fn links_in_the_servers_directory_lead_no_start_to_other_files() {
    let folder = Folder::open_to_all();
    let victim = folder.path().join("victim");
    fs::write(&victim, "# hands off\n").unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).unwrap();
    let server = own_server(quiet_options()).await;
    server.stop().await.unwrap();
    for name in ["server.conf", "server.log", "data/postgresql.conf"] {
        let path = server.directory().join(name);
        fs::remove_file(&path).unwrap();
        symlink(&victim, path).unwrap();
    }
    server.start_again().await.ok(); // its user may not be able to read what the links lead to
    assert!(!server.log_tail().contains("hands off"), "{}", server.log_tail());
    drop(server);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "# hands off\n");
    assert_eq!(fs::metadata(&victim).unwrap().permissions().mode() & 0o777, 0o600);
}

/// The same for the sweep, which opens the lock of a directory that it finds.
#[tokio::test]
async fn a_lock_that_is_a_link_is_removed_and_not_followed() {
    let parent = Folder::open_to_all();
    let (fake, locked) = (parent.path().join("reveille-pg-1-fake"), parent.path().join("locked"));
    let lock = fs::File::create(&locked).unwrap();
    lock.lock().unwrap();
    fs::create_dir(&fake).unwrap();
    symlink(&locked, fake.join("owner.lock")).unwrap();
    drop(own_server(Options { parent: Some(parent.path().into()), ..quiet_options() }).await);
    assert!(!fake.exists() && locked.exists());
}

#[tokio::test]
async fn a_server_killed_for_good_leaves_no_shared_memory() {
    let server = own_server(quiet_options()).await;
    let pid_file = fs::read_to_string(server.data_dir().join("postmaster.pid")).unwrap();
    let segment: Vec<String> =
        pid_file.lines().nth(6).unwrap().split_whitespace().map(str::to_owned).collect();
    let exists = || {
        let table = fs::read_to_string("/proc/sysvipc/shm").unwrap();
        table.lines().any(|line| line.split_whitespace().take(2).eq(&segment))
    };
    assert!(exists());
    server.kill9().await.unwrap();
    drop(server);
    assert!(!exists());
}

#[tokio::test]
async fn a_start_that_is_given_up_leaves_nothing() {
    let parent = Folder::open_to_all();
    let options = Options { parent: Some(parent.path().into()), ..quiet_options() };
    let start = tokio::spawn(Throwaway::start(options));
    wait_until("it has begun", SOON, async || !is_empty(parent.path())).await;
    start.abort();
    wait_until("nothing is left", SOON, async || is_empty(parent.path())).await;
}
