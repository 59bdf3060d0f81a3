//! What processes cost, as the kernel counts it.

use std::fs;
use std::time::Duration;

use super::machine::after;

/// The kernel tells processor time in hundredths of a second (`USER_HZ`, which is 100 on every Linux).
const TICK: Duration = Duration::from_millis(10);

/// Processor time that a process has used so far; zero when it is gone.
pub(super) fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    TICK * ticks(&stat).unwrap_or(0)
}

/// The same for several, given as the server numbers its processes.
pub(super) fn processor_time_of(pids: Vec<i32>) -> Duration {
    pids.into_iter().filter_map(|pid| u32::try_from(pid).ok()).map(processor_time).sum()
}

/// User and system time of a line of `/proc/PID/stat`. The second field is the name, in brackets, and may hold anything.
fn ticks(stat: &str) -> Option<u32> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Resident memory of a process in MiB; zero when it is gone.
pub(super) fn resident_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = after(&status, "VmRSS").and_then(|value| value.split(' ').next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        assert_eq!(ticks("7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 30 12 0 0"), Some(42));
        assert_eq!(ticks(""), None);
        let me = std::process::id();
        assert!(resident_mib(me) > 1.0);
        assert!(processor_time(me) < Duration::from_hours(1));
    }
}
