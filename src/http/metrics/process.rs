//! The process: uptime everywhere; processor time, memory and open files where /proc tells them.

use std::fmt;
use std::fs;
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;

use super::series::{Series, count};

/// Ticks a second of /proc/self/stat: 100 whatever the kernel's own rate is, but on Alpha.
const TICKS: f64 = 100.0;

/// Reads /proc/self when asked.
#[derive(Debug)]
pub(super) struct Process {
    started: Instant,
}

impl Process {
    /// Uptime counts from here.
    pub(super) fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut series = Series(encoder);
        let (seconds, uptime) = (Unit::Seconds, self.started.elapsed().as_secs_f64());
        series.gauge(
            "reveille_uptime",
            "Time since the process began to serve.",
            Some(&seconds),
            Some(uptime),
        )?;
        if let Some(used) = cpu_seconds() {
            let help = "Processor time used, user and system.";
            series.counter("process_cpu", help, Some(&seconds), used)?;
        }
        let memory = resident_bytes();
        series.gauge("process_resident_memory", "Memory in use.", Some(&Unit::Bytes), memory)?;
        series.gauge("process_open_fds", "Open files and sockets.", None, open_files())
    }
}

/// Fields 14 and 15 of `proc_pid_stat(5)`; the second field, the name, may hold anything but ends with `)`.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    let (user, system) = (fields.next()?.ok()?, fields.next()?.ok()?);
    Some(count(user + system) / TICKS)
}

fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(count(kilobytes * 1024))
}

fn open_files() -> Option<f64> {
    let open = fs::read_dir("/proc/self/fd").ok()?.count();
    u64::try_from(open).ok().map(count)
}
