//! The table of processes, as /proc shows it on Linux; elsewhere `ps` answers the one vital question.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The child processes of a postmaster. Without /proc none: they end by themselves when they notice that
/// their postmaster is gone.
pub(super) fn children(parent: u32) -> Vec<u32> {
    let parent = parent.to_string();
    let names = fs::read_dir("/proc").into_iter().flatten();
    let pids = names.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|[_, its_parent]| its_parent == parent)).collect()
}

/// Whether the process exists and is more than an entry that nobody has fetched yet.
pub(super) fn lives(pid: u32) -> bool {
    stat(pid).is_some_and(|[state, _]| state != "Z" && state != "X")
}

/// Whether this process has the path in its command line, as our servers have.
pub(super) fn names_path(pid: u32, path: &Path) -> bool {
    let path = path.as_os_str().as_encoded_bytes();
    let line = fs::read(format!("/proc/{pid}/cmdline")).or_else(|_| {
        let ps = Command::new("ps").args(["-o", "args=", "-p", &pid.to_string()]).output();
        ps.map(|output| output.stdout)
    });
    line.is_ok_and(|line| line.windows(path.len()).any(|part| part == path))
}

/// State and parent: `pid (name) state ppid …`, where the name may hold blanks and parentheses.
fn stat(pid: u32) -> Option<[String; 2]> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit(')').next()?.split_whitespace().map(str::to_owned);
    Some([fields.next()?, fields.next()?])
}
